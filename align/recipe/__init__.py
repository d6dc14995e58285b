"""Recipes: YAML in, a validated, immutable `Recipe` out; every error names file, line, key and
remedy.
"""
