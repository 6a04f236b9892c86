"""Show what each finding of a report rests on: earlier cases, image, words; numpy only."""
