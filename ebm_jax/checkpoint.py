"""Checkpoints of the whole TrainState with orbax: parameters, optimiser, moving average, chains,
ages, keys, step."""

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_policy

from ebm_jax import cost, memory, process
from ebm_jax.errors import InputError, NotSaved
from ebm_jax.train import TrainState
from ebm_jax.types import Params

# What a checkpoint holds. 1: no format is written; energies end with a bias that nothing teaches.
FORMAT = 2


def steps_in(folder: str | pathlib.Path) -> list[int]:
    """The steps of the complete checkpoints in a folder, without opening them."""
    names = [path.name for path in pathlib.Path(folder).glob('[0-9]*')]
    return sorted(int(name) for name in names if name.isdecimal())


@contextlib.contextmanager
def _without_remarks():
    """orbax warns of what it was asked for: reading without writing, and what old folders lack."""
    log = logging.getLogger('absl')
    level = log.level
    log.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        log.setLevel(level)


class Checkpoints:
    """The checkpoints of one run, in their own folder; written in the background, each complete or
    absent.

    Those at multiples of `every` form the ring of states that a guarded run goes back to: the
    newest `keep` of them stay, whatever was saved between them, so that an interrupted run goes
    back to the same states. Besides these only the newest checkpoint of all stays.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        every: int = 1,
        keep: int = 3,
        read_only: bool = False,
        echo: Callable[[str], None] = print,
    ) -> None:
        """read_only: for reading while a run may be writing; changes nothing. echo: takes messages
        for the user."""
        self.folder = pathlib.Path(folder).absolute()
        self.every, self.keep, self.read_only, self.echo = every, keep, read_only, echo
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f'{self.folder} is a file and not a folder: use a new workdir')
        if read_only and not self.folder.is_dir():
            raise InputError(f'no checkpoints in {self.folder}: train first')
        ring = keep_policy.EveryNSteps(interval_steps=every, max_to_keep=keep)
        newest = keep_policy.LatestN(n=1)
        with _without_remarks():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=keep_policy.AnyPreservationPolicy([ring, newest]),
                cleanup_tmp_directories=True,
                create=True,
            )
            if read_only:
                options = ocp.CheckpointManagerOptions(read_only=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def ring(self) -> list[int]:
        """Steps of the newest `keep` complete checkpoints at multiples of `every`, newest first."""
        self.wait()
        steps = [step for step in self._manager.all_steps() if step % self.every == 0]
        return sorted(steps, reverse=True)[: self.keep]

    def save(self, state: TrainState) -> None:
        """Begin to write `state` (chains with their leading axis of shards) under its step; a step
        already there is kept.

        Raises: NotSaved where this one, or the one before it in the background, cannot be written.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._try(
                lambda: self._manager.save(
                    step,
                    args=ocp.args.StandardSave(state),
                    custom_metadata={'format': FORMAT, 'sha256': digests(state)},
                )
            )

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints after a step, newest first: a run that went back to it will write
        new ones."""
        self.wait()
        for later in sorted(self._manager.all_steps(), reverse=True):
            if later > step:
                self._manager.delete(later)

    def restore(self, template: TrainState, step: int | None = None) -> TrainState:
        """The state of `step`, with the structure and shapes of `template`, on the first local
        device.

        The number and kind of devices that it was saved from do not matter.

        Args:
          step: default the newest. If that one is damaged and an older one is not, the older one is
            used and the damaged one is moved to damaged_checkpoints beside the folder.
        Raises: InputError when there is none, when it is damaged, or when it belongs to another
          network, method or optimiser.
        """
        found, state = self._first_readable(lambda step: self._restore(template, step), step)
        return state

    def restore_eval_params(self) -> tuple[int, Params]:
        """(step, the parameters to evaluate) of the newest checkpoint, without a template.

        Damaged ones are handled as in `restore`.

        Raises: InputError when there is none that can be read.
        """
        return self._first_readable(self._restore_eval_params)

    @_without_remarks()
    def _first_readable(self, read, step=None):
        """(step, what `read` gives) of a step, or of the newest that is not damaged."""
        there = sorted(self._manager.all_steps(), reverse=True)
        if step not in (None, *there) or not there:
            listed = ', '.join(map(str, reversed(there))) or 'none'
            raise InputError(
                f'no checkpoint of step {step} in {self.folder} (there: {listed}): train first, or '
                'name one of these'
            )
        damaged = {}
        for candidate in there if step is None else [step]:
            self._check_format(candidate)
            try:
                found = read(candidate)
            except _DamagedError as error:
                damaged[candidate] = str(error)
                continue
            for bad, why in damaged.items():
                self._set_aside(bad, why, candidate)
            return candidate, found
        newest = max(damaged)
        written = self._format(newest)
        earlier = 'damaged or of another configuration'
        if written is not None and written < FORMAT:
            earlier = (
                f'of an earlier version of ebm_jax (format {written}, this is {FORMAT}), which '
                f'goes on with it, or {earlier}'
            )
        raise InputError(
            f'{damaged[newest]}: it is {earlier}; delete that folder to go on from an older one, '
            'or use a new workdir'
        )

    def _format(self, step):
        """The format in which a checkpoint was written; None where that cannot be read."""
        try:
            written = (self._manager.metadata(step).custom_metadata or {}).get('format', 1)
        except Exception:  # of many types, as in `_reading`, where they are told of
            return None
        return written if isinstance(written, int) else None

    def _check_format(self, step):
        written = self._format(step)
        if written is not None and written > FORMAT:
            raise InputError(
                f'checkpoint {self.folder / str(step)} was written by a later version of ebm_jax '
                f'(format {written}, this one reads up to {FORMAT}): use that version'
            )

    def _restore(self, template, step):
        target = jax.tree.map(_on_this_device, template)
        with self._reading(step):
            state = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        self._check(step, int(state.step), digests(state))
        mismatch = [
            (jax.tree_util.keystr(path), a.shape, b.shape)
            for (path, a), b in zip(
                jax.tree_util.tree_leaves_with_path(template), jax.tree.leaves(state)
            )
            if a.shape != b.shape
        ]
        if mismatch:
            where, want, got = mismatch[0]
            raise InputError(
                f'checkpoint {self.folder / str(step)} has shape {list(got)} at {where} where this '
                f'configuration has {list(want)}: use the configuration it was made with, or a new '
                'workdir'
            )
        return state

    def _restore_eval_params(self, step):
        file = self.folder / str(step) / 'default'
        with self._reading(step), ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(file).item_metadata.tree
            name = 'ema_params' if jax.tree.leaves(saved.get('ema_params')) else 'params'
            target = {part: jax.tree.map(_on_this_device, saved[part]) for part in (name, 'step')}
            size, left = cost.num_bytes(target), memory.left()
        if size > left:
            raise InputError(
                f'checkpoint {file.parent} holds {size:,} bytes, and {left:,} are left here: use a '
                'machine with more memory, or, where that is absurd for this network, it is damaged'
            )
        with self._reading(step), ocp.PyTreeCheckpointer() as checkpointer:
            restored = checkpointer.restore(
                file,
                args=ocp.args.PyTreeRestore(
                    item=target,
                    partial_restore=True,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                ),
            )
        self._check(step, int(restored['step']), {name: _digest(restored[name])})
        return restored[name]

    def _check(self, step, inside, found):
        """Refuse a checkpoint of another step, or one that is not what was saved.

        Args: inside: the step in it. found: `digests` of what was read.
        """
        folder = self.folder / str(step)
        if inside != step:
            raise _DamagedError(f'checkpoint {folder} holds the state of step {inside}')
        with self._reading(step):
            saved = (self._manager.metadata(step).custom_metadata or {}).get('sha256', {})
        wrong = [name for name, digest in found.items() if saved.get(name, digest) != digest]
        if wrong:
            raise _DamagedError(
                f'checkpoint {folder} does not hold what was saved ({", ".join(wrong)} differ from '
                'their SHA-256)'
            )

    @contextlib.contextmanager
    def _reading(self, step):
        try:
            yield
        except Exception as error:  # orbax and its storage layers raise many types
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise _DamagedError(
                f'checkpoint {self.folder / str(step)} cannot be restored ({first})'
            ) from error

    def _set_aside(self, step, why, instead):
        self.echo(f'{why}; the one of step {instead} is used.')
        if not self.read_only:
            process.primary_only(self._move_aside)(step)
            process.barrier(f'damaged {step}')
            self._manager.reload()

    def _move_aside(self, step):
        aside = self.folder.parent / 'damaged_checkpoints'
        aside.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(aside / f'{step}_{len(list(aside.iterdir()))}')

    def wait(self) -> None:
        """Wait until everything begun is on disk.

        Raises: NotSaved.
        """
        self._try(self._manager.wait_until_finished)

    def _try(self, write):
        try:
            write()
        except jax.errors.JaxRuntimeError:  # another process is gone; not a problem of the disk
            raise
        except Exception as error:  # of many types, as in `_reading`
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            # the system's message, which in other errors comes last
            said = error.strerror if isinstance(error, OSError) else None
            why = said or first.rpartition(': ')[2][:200]
            raise NotSaved(f'a checkpoint cannot be written to {self.folder} ({why})') from error

    def close(self) -> None:
        """Wait until everything begun is on disk, and close the manager."""
        try:
            self.wait()
        finally:
            self._manager.close()


def digests(state: TrainState) -> dict[str, str]:
    """{field: SHA-256 of its arrays} of a state; {} where it lies on several processes."""
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
        return {}
    fields = {part.name: getattr(state, part.name) for part in dataclasses.fields(state)}
    return {name: _digest(field) for name, field in fields.items()}


def _digest(tree):
    """SHA-256 of the arrays of a pytree, with their shapes and types."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        found.update(f'{array.shape} {array.dtype}'.encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _on_this_device(leaf):
    """The target for restoring an array of that shape: on the first local device."""
    sharding = SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


class _DamagedError(Exception):
    """A checkpoint that cannot be read."""
