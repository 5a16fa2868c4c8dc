"""Bytes as they travel from an engine to the path."""

#: The reader may reuse the memory once the next buffer is asked for. zstd works best on 64 KiB to
#: 1 MiB at a time.
Buffer = bytes | bytearray | memoryview


class EndFrame:
    """Yielded between buffers: end the zstd frame here, so that reading can start at this point."""


END_FRAME = EndFrame()
