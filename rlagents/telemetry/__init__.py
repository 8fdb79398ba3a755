"""What people see: metrics, spans, progress, TensorBoard, trajectories to read."""
