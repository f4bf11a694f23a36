"""What a run hands over to other programs: a point cloud, a mesh, cameras."""
