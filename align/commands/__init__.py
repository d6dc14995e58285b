"""The commands of `align`, one module each with `main(args) -> exit status`; imported on use by
`align/cli.py`.
"""
