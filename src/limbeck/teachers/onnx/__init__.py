"""A teacher in an ONNX file, whoever made it."""
