"""Images and videos: files to pixels, records to samples, samples to batches."""
