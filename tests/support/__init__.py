"""What tests share: flows, command lines, recorded runs, processes, damage and the like."""
