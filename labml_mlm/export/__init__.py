"""
# Export

A trained model comes in; a folder that Hugging Face loads, or a file in ONNX, goes out.
"""
