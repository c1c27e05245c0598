"""From frames to units: k-means (`kmeans`, `teacher`), the units store, its gate, and the quality of units."""
