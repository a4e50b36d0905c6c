"""A sing request -> waveforms: request (validated settings), words, plan and layout (what is sung when), pipeline (the whole way), generate, stepwise and
parallel (decode loops), desk and mix, picture."""
