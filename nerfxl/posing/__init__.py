"""From raw photographs, or a video, to a posed capture: structure from motion, by pycolmap."""
