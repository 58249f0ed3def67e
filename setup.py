"""Metadata and version ranges; `constraints.txt` pins the exact set that was tested."""
from pathlib import Path

import setuptools

setuptools.setup(
    name='labml_mlm',
    version='0.1.0',
    description='Masked language model pre-training on any text, watched on labml',
    long_description=(Path(__file__).parent / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='MIT',
    packages=setuptools.find_packages(include=['labml_mlm', 'labml_mlm.*']),
    # The curves that recipes are expected to have
    package_data={'labml_mlm.run_commands': ['curves/*.json']},
    # torchtext, which labml-nn requires, has no wheel for Python 3.13
    python_requires='>=3.11,<3.13',
    install_requires=[
        'torch>=2.6',
        'labml>=0.5.3,<0.6',
        'labml-nn>=0.5.1,<0.6',
        'labml-helpers>=0.4.89,<0.5',
        'numpy>=1.26',
        # The first whose `save_file` lets other threads go on
        'safetensors>=0.8',
        'PyYAML>=6',
        # Scripts of characters, for `labml-mlm text`
        'fonttools>=4.50',
        # The first that leaves the content of a lock file alone
        'filelock>=4',
        'lazy-loader>=0.6',
        # JSON lines, many at once
        'orjson>=3.10',
        'regex>=2024.4.16',
        # The live view
        'rich>=13.9,<16',
        # Trains Unigram tokenizers, deterministically
        'sentencepiece>=0.2',
        # Writes the script that completes `labml-mlm` in a shell
        'shtab>=1.7,<2',
        # The first that can read special tokens in a text as text
        'tokenizers>=0.19',
        # Ends of sentences, for `sentence_pairs`
        'unicode-segmentation-rs>=1,<2',
        'zstandard>=0.22',
    ],
    entry_points={'console_scripts': ['labml-mlm = labml_mlm.__main__:main']},
    extras_require={
        # The last three ship what the app's pages would fetch from elsewhere: d3, Bootstrap and Font Awesome
        'app': ['labml-app>=0.5.14,<0.6', 'uvicorn>=0.30', 'mpld3>=0.5.10', 'bootstrap-flask>=2.4',
                'fontawesomefree>=5.15,<6'],
        # Hugging Face's models beside ours in benchmarks; they cannot be imported beside a torchvision of another torch
        'bench': ['transformers>=5', 'accelerate>=1', 'matplotlib>=3.8', 'optuna>=4', 'scikit-learn>=1.4',
                  'vaderSentiment>=3.3.2'],
        # The site
        'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5', 'mkdocstrings[python]>=0.26', 'latex2mathml>=3.77',
                 'pymdown-extensions>=10', 'Pygments>=2.17'],
        # Metrics of fine-tuning, and probes
        'finetune': ['scikit-learn>=1.4', 'scipy>=1.11', 'seqeval>=1.2.2'],
        # For `export` to a file; torch's exporter is written with onnxscript
        'onnx': ['onnx>=1.18', 'onnxruntime>=1.22', 'onnxscript>=0.5'],
        # For `embed -o vectors.parquet` and `export-metrics -o runs.parquet`
        'parquet': ['pyarrow>=16'],
        'plot': ['matplotlib>=3.8'],
        'test': ['pytest>=8', 'pytest-xdist>=3.5', 'hypothesis>=6.100', 'ruff>=0.8', 'import-linter>=2',
                 'pyte>=0.8.2', 'selenium>=4.20', 'nbclient>=0.10', 'nbformat>=5.10', 'ipykernel>=6.29'],
    },
)
