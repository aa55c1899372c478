"""`fetcher export`: the manifest for other programs, on stdout or as files in a folder.

Owns which form goes where. Never replaces a file that stands there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fetcher import exports
from fetcher.commands.reading import opened, put, put_table, refuse_dry_run, tell_notices
from fetcher.configuration.sources import Source
from fetcher.core.text import printable
from fetcher.errors import StorageError, UsageError
from fetcher.models import State, Variant

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Iterator

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.manifest.reader import Reader

_FOLDER_FORMS = ("kaldi", "audiofolder")


def run(args: Namespace, env: Environment) -> int:
    """Write the manifest in the form that was asked for; return the exit status."""
    found = env.resolve(args)
    tell_notices(found, env)
    form = _form(found)
    to = _folder(found, form)
    if to is not None:
        refuse_dry_run(found, "export --to", "export")
    with opened(found) as reader:
        speech = exports.Speech(found.dest, _measure)
        if form == "kaldi":
            count = _write_kaldi(reader, speech, to)
            env.tell(f"wrote {count:,} recordings into {to}")
        elif form == "audiofolder":
            _write_audiofolder(reader, speech, found, to, env)
        elif form == "csv":
            put_table(exports.csv_lines(reader.entries()), env.stdout)
        else:
            put(_lines(form, reader, speech), env.stdout)
    return 0


def _form(found: Resolved) -> str:
    """Return the format; `--json` asks for JSON lines where no format was asked for."""
    if found.value("json_output", bool) and found.origins["format"].is_default:
        return "jsonl"
    return found.value("format", str)


def _folder(found: Resolved, form: str) -> Path | None:
    to = found.optional("to", Path)
    if form == "kaldi" and to is None:
        raise UsageError(
            "kaldi is a folder of several files: say where with --to DIR (wav.scp, utt2dur, "
            "utt2spk, spk2utt and, with originals, original.scp are made in it)"
        )
    if to is not None and form not in _FOLDER_FORMS:
        if found.origins["to"].source is Source.COMMAND_LINE:
            raise UsageError(
                f"--to is for the formats that are folders, {' and '.join(_FOLDER_FORMS)}: "
                f"send {form} from stdout to a file, as in fetcher export > FILE"
            )
        return None
    return to


def _lines(form: str, reader: Reader, speech: exports.Speech) -> Iterator[str]:
    match form:
        case "jsonl":
            return exports.json_lines(reader.entries())
        case "nemo":
            return speech.nemo(exports.recordings(reader))
        case _:
            return exports.json_array(reader.entries())


def _measure(path: Path) -> float | None:
    from fetcher.transfers.durations import duration_s  # noqa: PLC0415 - mutagen, for few records

    return duration_s(path)


# ---- folders -----------------------------------------------------------------------------


def _write_kaldi(reader: Reader, speech: exports.Speech, to: Path | None) -> int:
    assert to is not None
    names = ["wav.scp", "utt2dur", "utt2spk", "spk2utt"]
    if _has_originals(reader):
        names.append("original.scp")
    count = 0
    with _fresh_files(to, names) as files:
        for one in exports.recordings(reader):
            count += 1
            for name, line in speech.kaldi(one).items():
                files[name].write(line)
    return count


def _write_audiofolder(
    reader: Reader, speech: exports.Speech, found: Resolved, to: Path | None, env: Environment
) -> None:
    folder = to or found.dest
    try:
        below = found.dest.resolve().relative_to(folder.resolve())
    except ValueError:
        raise UsageError(
            f"--to {printable(str(folder))}: the metadata.csv of an audiofolder stands in the "
            f"folder with the audio or above it: use --to {printable(str(found.dest))}"
        ) from None
    prefix = "" if below == Path() else f"{below.as_posix()}/"
    lines = speech.audiofolder(
        exports.recordings(reader), prefix=prefix, with_originals=_has_originals(reader)
    )
    if to is None:
        put_table(lines, env.stdout)
        return
    with _fresh_files(folder, ["metadata.csv"]) as files:
        files["metadata.csv"].writelines(lines)
    env.tell(f"wrote {folder / 'metadata.csv'}")


def _has_originals(reader: Reader) -> bool:
    return any(
        one.variant is Variant.ORIGINAL and one.state is State.COMPLETE for one in reader.tallies()
    )


@contextlib.contextmanager
def _fresh_files(folder: Path, names: Iterable[str]) -> Iterator[dict[str, TextIO]]:
    """Give new files, open for writing; when anything fails, none of them is left behind.

    Raises UsageError where a name is taken, StorageError.
    """
    files: dict[str, TextIO] = {}
    with contextlib.ExitStack() as stack, _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in names:
                files[name] = stack.enter_context(
                    (folder / name).open("x", encoding="utf-8", errors="surrogateescape")
                )
            yield files
            for file in files.values():
                file.flush()
        except BaseException:
            for name in files:
                (folder / name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise UsageError(
            f"{printable(str(error.filename))} is already there and is not replaced: remove it,"
            " or name another folder with --to"
        ) from None
    except OSError as error:
        raise StorageError(
            f"cannot write into {printable(str(folder))}: {error.strerror or error}"
        ) from None
