"""Where examples come from: the cutout world, captioned images, clips, and their loaders."""
