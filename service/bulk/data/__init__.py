"""Data sets as files: Parquet, arrays of numpy, folders of Hugging Face's datasets; read in one pass."""

from service.bulk.data.base import Chunk
from service.bulk.data.dataset import Dataset
from service.bulk.data.opening import open_dataset

__all__ = ["Chunk", "Dataset", "open_dataset"]
