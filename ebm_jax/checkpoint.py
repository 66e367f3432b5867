"""Checkpoints of the whole TrainState with orbax: parameters, optimiser, moving average, chains, ages, keys, step."""
import pathlib

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from ebm_jax.errors import InputError


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; written in the background, each complete or not there at all."""

    def __init__(self, folder, keep=3, read_only=False):
        """keep: how many of the newest stay. read_only: for looking on while a run may be writing; touches nothing."""
        self.folder = pathlib.Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise InputError(f'no checkpoints in {self.folder}: train first')
        options = ocp.CheckpointManagerOptions(read_only=True) if read_only else ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, create=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self):
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state):
        """Begin to write `state` (chains with their leading axis of shards) under its step; a step already there is kept."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, template, step=None):
        """The state of `step` (default: the newest), with the structure and shapes of `template`, on the first local device.

        The number and kind of devices that it was saved from do not matter.

        Raises: InputError when there is none, when it is damaged, or when it belongs to another network, method or optimiser.
        """
        step = self.latest() if step is None else step
        if step is None or step not in self._manager.all_steps():
            there = ', '.join(map(str, self._manager.all_steps())) or 'none'
            raise InputError(f'no checkpoint of step {step} in {self.folder} (there: {there}): train first, or name one of these')
        here = SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), template)
        try:
            state = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:   # orbax and its storage layers raise many types for a damaged or foreign checkpoint
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InputError(f'checkpoint {self.folder / str(step)} cannot be restored ({first}): it is damaged or of another '
                             'configuration; delete that folder to go on from an older one, or use a new workdir') from error
        mismatch = [(jax.tree_util.keystr(path), a.shape, b.shape) for (path, a), b in
                    zip(jax.tree_util.tree_leaves_with_path(template), jax.tree.leaves(state)) if a.shape != b.shape]
        if mismatch:
            where, want, got = mismatch[0]
            raise InputError(f'checkpoint {self.folder / str(step)} has shape {list(got)} at {where} where this configuration has '
                             f'{list(want)}: use the configuration it was made with, or a new workdir')
        return state

    def close(self):
        """Wait until everything begun is on disk, and let go."""
        self._manager.wait_until_finished()
        self._manager.close()
