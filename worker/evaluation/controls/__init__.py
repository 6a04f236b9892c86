"""Controls of a run: its studies are reported again with other prompts, or with texts known to be wrong."""
