"""Hold the received objects of studies in an S3 bucket, and read them from wherever they are."""
