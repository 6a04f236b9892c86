"""Turn a job into a report version: images, retrieval, prompt, model, limitations."""
