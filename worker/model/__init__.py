"""The model: checkpoint conversion, the resident model, the engine. The only room with torch in it."""
