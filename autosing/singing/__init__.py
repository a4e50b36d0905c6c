"""A sing request -> waveforms: request (validated settings), pipeline, generate (decode loops), mix, picture."""
