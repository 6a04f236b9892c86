"""Receive studies from modalities and queue them: receive, spool, index, settle, dispatch."""
