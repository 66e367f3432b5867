import jax

jax.config.update('jax_num_cpu_devices', 8)   # before the first computation: the sharded step is tested on fake devices
