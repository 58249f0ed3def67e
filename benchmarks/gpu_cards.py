"""
What a card can do: dense products of 16-bit matrices with sums in 32 bits, without sparsity, by their makers' data
sheets.
"""
import re

# In TFLOP/s by a pattern of `torch.cuda.get_device_name`; the first that fits counts. Cards without bf16 have that of
# fp16, and others of a name, such as H100 NVL, another one that is not here
_PEAKS = {
    r'B200\b': 2250.,
    r'H200\b(?! NVL)': 989.,
    r'H100 PCIe\b': 756.,
    r'H100\b(?! NVL)': 989.,
    r'A100\b': 312.,
    r'L40S\b': 362.,
    r'RTX 4090\b(?! D| Laptop)': 165.,
    r'A10\b': 125.,
    r'L4\b': 121.,
    r'V100\b': 125.,
    r'T4\b': 65.,
}


def peak_of(name: str) -> float | None:
    """TFLOP/s of a card, by its name; `None` if it is not known."""
    return next((peak for pattern, peak in _PEAKS.items() if re.search(rf'(?<!\w){pattern}', name)), None)
