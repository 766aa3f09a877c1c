"""Where images come from before they are converted: folders, tars, shards and arrays.

A source reads all classes and labels when it is opened, and then one sample at a time, in any
order, so that several threads can share the work.
"""

from data_pipeline.sources.folders import ImageFolder
from data_pipeline.sources.idx import IdxImages
from data_pipeline.sources.opening import open_source
from data_pipeline.sources.source import Source, SourceError, SourceSample

__all__ = ["IdxImages", "ImageFolder", "Source", "SourceError", "SourceSample", "open_source"]
