"""Move indexed files to the object storage, behind everything that receives, reports and reads."""
