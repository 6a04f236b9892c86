"""The ruler: labels from report texts, figures from labels, and errors planted to see whether they are seen."""
