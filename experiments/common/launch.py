"""The command line: `python -m experiments.NAME --workdir=DIR [--config.KEY=VALUE]`.

A mistake of the user ends in one sentence and exit code 2, a run that diverged in its account and
exit code 1.
"""

import difflib
import importlib
import logging
import math
import os
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from ebm_jax import memory
from ebm_jax.compiling import compile_quickly_on_cpu, keep_programs
from ebm_jax.errors import Diverged, InputError, NotSaved, Stopped
from experiments.common import processes, settings
from experiments.common.cores import use_all_cores
from experiments.common.runs import fit_experiment

HELP = ('-h', '--help', '-help', '--helpfull')


def main(
    run: Callable[[Any], None],
    define_flags: Callable[[Any], None],
    description: str | None,
) -> None:
    """Parse flags and call `run(flag values)`; turn the user's mistakes into one sentence.

    Args:
      run: the program, a function of the flag values.
      define_flags: defines the flags in the given flag values.
      description: what --help prints before the flags.
    """
    keep_programs()
    compile_quickly_on_cpu()
    warnings.showwarning = _warn
    for name in ('absl', 'asyncio'):  # orbax logs the traceback of what it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    values = flags.FlagValues()
    try:
        define_flags(values)
        if any(argument in HELP for argument in sys.argv[1:]):
            print(help_page(description, values))
            sys.exit(0)
        extra = values(sys.argv)[1:]
        if extra:
            how = '--config.key=value' if 'config' in values else '--flag=value'
            raise InputError(f'unknown arguments {" ".join(extra)}: give them as {how}')
    except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        # absl's sentence on a required flag that was not given
        missing = re.match(r'flag --(\w+)=None: Flag --\w+ must have a value', said)
        if missing:
            said = f'give --{missing[1]}=...'
        end(f'{said} (--help shows the flags)')
    try:
        run(values)
    except InputError as error:
        end(str(error))
    except Diverged as error:
        end(error.account, code=1)
    except NotSaved as error:
        # a normal exit would wait for orbax's threads, which wait for what failed
        end(str(error), code=1, at_once=True)
    except Stopped as stopped:
        print(stopped)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if memory.is_exhausted(error):
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            end(f'memory is exhausted ({first}): {memory.LOWER}', code=1)
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        leave(1, in_order=False)


def _warn(message, *where, **more):
    """A warning as one line for users."""
    print(f'warning: {message}', file=sys.stderr)


def help_page(description: str | None, values: Any) -> str:
    """What --help prints: the description, the flags, the settings in their groups."""
    lines, own = [(description or '').strip(), '', 'Flags:'], values.flags_by_module_dict()
    config = None
    for flag in (flag for group in own.values() for flag in group):
        if flag.name == 'config':
            config = flag.value
        elif '.' not in flag.name:
            default = '' if flag.default is None else f' (default {flag.default_as_str})'
            lines.append(f'  --{flag.name}: {flag.help}{default}')
    if config is not None:
        lines += ['', 'Settings, each with its default:', '', settings.help_text(config)]
    return '\n'.join(lines)


def end(sentence: str, code: int = 2, at_once: bool = False) -> None:
    """End the program with a sentence. at_once: without waiting for threads or other processes."""
    print(f'error: {sentence}', file=sys.stderr)
    if at_once or jax.distributed.is_initialized():
        leave(code)
    sys.exit(code)


def leave(code: int, in_order: bool = True) -> None:
    """End the process at once: a normal exit would wait for others, which may be waiting for this
    one. in_order: False where another process is what failed, which is then said."""
    for child in processes.WATCHES if in_order else ():
        child.communicate(b'in order')
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def define_settings(values: Any, config: Any, arguments: Sequence[str]) -> None:
    """Define --config.KEY=VALUE for all settings.

    Args: arguments: of the command line. Raises: InputError for an unknown setting among them.
    """
    from ml_collections import config_flags  # not needed where settings are not flags

    known = settings.flatten(config)
    for argument in arguments:
        if argument.startswith(('--config.', '-config.', '--noconfig.')):
            name = argument.lstrip('-').partition('=')[0].partition('.')[2]
            if name not in known:
                raise InputError(_unknown(name, known))
    config_flags.DEFINE_config_dataclass(
        'config', config, 'Settings.', flag_values=values, sys_argv=['', *arguments]
    )


def _unknown(name, known):
    """What to say of a setting that is not there."""
    inside = [path for path in known if path.startswith(f'{name}.')]
    if inside:
        return f'{name} is a group of settings: {", ".join(f"--config.{path}" for path in inside)}'
    group, _, _ = name.rpartition('.')
    beside = [path.rpartition('.')[2] for path in known if path.rpartition('.')[0] == group]
    close = difflib.get_close_matches(name, known, 1, 0.7)
    hint = f' (did you mean --config.{close[0]}?)' if close else ''
    there = f'; there are {", ".join(beside)}' if group and beside else ''
    return f'there is no setting --config.{name}{there}{hint}'


def numbers(
    values: Any, name: str, kind: type = float, low: float | None = None, above: float | None = None
) -> list[Any]:
    """The numbers of a list flag, in the order given.

    Args: kind: float or int. low, above: what each must be at least, or exceed.
    Raises: InputError for anything else, or none.
    """
    given, which = values[name].value, 'numbers'
    try:
        found = [float(text) for text in given]
        which = {float: 'numbers', int: 'whole numbers'}[kind]
        which += f' of at least {low:g}' if low is not None else ''
        which += f' above {above:g}' if above is not None else ''
        found = [kind(text) for text in given]
    except ValueError:
        found = []
    allowed = all(
        math.isfinite(n) and (low is None or n >= low) and (above is None or n > above)
        for n in found
    )
    if not found or not allowed:
        raise InputError(f'--{name} must be {which}, got {",".join(given) or "nothing"}')
    return found


def define_config(values: Any, config: Any) -> None:
    """Define --workdir and --config.KEY=VALUE. Raises: InputError for an unknown setting."""
    flags.DEFINE_string(
        'workdir', None, 'Folder of the run; the same command continues it.', flag_values=values
    )
    flags.mark_flag_as_required('workdir', values)
    define_settings(values, config, sys.argv[1:])


def parsed_settings(config: Any, arguments: Sequence[str]) -> Any:
    """The configuration with the settings of `--config.KEY=VALUE` arguments.

    Raises: InputError for what is not such an argument, or not allowed.
    """
    values = flags.FlagValues()
    define_settings(values, config, arguments)
    try:
        extra = values(['', *arguments])[1:]
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        raise InputError(str(error).strip().splitlines()[0]) from error
    if extra:
        raise InputError(f'unknown arguments {" ".join(extra)}')
    settings.as_declared(values.config)
    settings.check(values.config)
    return values.config


def train(module_name: str) -> None:
    """The main program of an experiment: `get_config()` of the module defines the flags, `build`
    makes the experiment, `fit` trains it."""
    module = importlib.import_module(module_name)

    def define(values):
        define_config(values, module.get_config())
        processes.define(values)

    def run(values):
        workdir, config = pathlib.Path(values.workdir), values.config
        settings.as_declared(config)
        settings.check(config)
        processes.join(values)
        use_all_cores(config)
        fit_experiment(workdir, module, config)
        if jax.process_index() == 0:
            print(f'Next: python -m experiments.evaluate --workdir={workdir}')

    main(run, define, module.__doc__)
