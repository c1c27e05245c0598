"""Packaging of hubertkit: metadata, dependencies, and the `hubertkit` command."""

from pathlib import Path

from setuptools import find_packages, setup

LINUX_X86_64 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"

setup(
    name="hubertkit",
    version="0.1.0",
    description="HuBERT pretraining by clustering rounds, CTC fine-tuning, LM decoding, and word error rates to trust",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # pyctcdecode 0.5 needs numpy < 2, which has no wheels for Python 3.13.
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=[f"{room}{sub}" for room in ("upstream", "downstream", "benchmarks", "tools")
                                    for sub in ("", ".*")]),
    package_data={
        "upstream": ["py.typed", "recipes/*.yaml", "training/curves/*.json"],
        "downstream": ["py.typed", "recipes/*.yaml", "recipes/decoding/*.yaml", "recipes/selftrain/*.yaml"],
        "benchmarks": ["py.typed", "recipes/*.yaml", "*.json", "*.yaml", "report/*.css"],
    },
    install_requires=[
        "numpy>=1.26,<2",  # pyctcdecode 0.5
        # torchaudio's binary wants the torch that it was built with: 2.11.1 asks for "torch>=2.11", but does not load
        # with this one (undefined symbol: torch_exception_get_what_without_backtrace).
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "omegaconf>=2.4,<3",
        f"faiss-gpu>=1.14,<2; {LINUX_X86_64}",
        f"faiss-cpu>=1.9,<2; {ELSEWHERE}",
        "jiwer>=4,<5",
        "pyctcdecode==0.5.*",
        "kenlm>=0.2",
        "flashlight-text>=0.0.7",
        "soundfile>=0.13",  # bundles libsndfile 1.2.2, which decodes Opus with exact lengths
        "soxr>=0.5",
        "pyarrow>=15,<26",  # 26 refuses numpy 1.26
        "safetensors>=0.4.3",
        "scipy>=1.11",
        "packaging>=22",
        "typer>=0.16.1",
        "rich>=13",
        "matplotlib>=3.8",
        "jsonschema>=4.20",
        "tensorboard>=2.15",
    ],
    extras_require={
        "demo": ["espeakng-loader>=0.2.4"],
        "hf": ["transformers>=5,<6", "huggingface_hub"],
        "dev": ["pytest>=8", "hypothesis>=6.80,<7", "ruff==0.15.*", "mypy>=1.11", "pytest-timeout>=2.3",
                "scikit-learn>=1.4"],
    },
    entry_points={"console_scripts": ["hubertkit = tools.start:main"]},
)
