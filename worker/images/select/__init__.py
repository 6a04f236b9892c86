"""Select the frames of a study that become images."""
