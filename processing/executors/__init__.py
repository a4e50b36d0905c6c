"""Where partitions are worked on: `local` = processes of this machine. A step never knows which."""
