"""Write the draft of a study: images, similar cases, prompt, generation, limitations."""
