"""Give viewers the stored frames of a study, decoded in processes of their own."""
