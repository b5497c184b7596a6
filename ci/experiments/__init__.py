"""Programs that measure or show something: the demo, the benchmarks, the faults and the soak."""
