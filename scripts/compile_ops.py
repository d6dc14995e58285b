"""Compiles the DeepSpeed op that ZeRO with offload uses on the CPU, once, before something waits.

DeepSpeed compiles an op where it is first used and keeps it (TORCH_EXTENSIONS_DIR, by default in
the user's cache): minutes on two cores, which in a test or a first training step look like a hang.
"""

from deepspeed.ops.op_builder.cpu import CPUAdamBuilder

if __name__ == "__main__":
    builder = CPUAdamBuilder()
    builder.load()
    print(builder.name)
