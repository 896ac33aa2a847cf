"""What a batch has to do: every CT series and every volume file below a folder, each with a name for its results."""

from __future__ import annotations

import logging
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bundle.skull_implant.archive.batch_names import (
    carries_patient,
    content_name,
    distinct_names,
    name_of_folder,
    names_of_file,
    patient_words,
)
from bundle.skull_implant.errors import InputError
from bundle.skull_implant.input.dicom_identity import CT, DAMAGED, NOT_DICOM, identify
from bundle.skull_implant.input.image_file import image_extension
from bundle.skull_implant.output.result_folder import REPORT, is_result

logger = logging.getLogger(__name__)
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its remarks quote whole paths, which may name the patient

PATIENT_TAGS = ("PatientName", "PatientID", "PatientBirthDate")
CANDIDATES = "candidates"  # of an earlier result, the folder of its further implants
PASSED_OVER = {NOT_DICOM: "files that are neither DICOM nor a volume", DAMAGED: "damaged DICOM files"}


@dataclass(frozen=True)
class BatchInput:
    """One case of a batch.

    Args:
        name: of its result folder; no other case of the batch has it.
        files: the volume file, or the files of the CT series, as absolute paths.
        is_series: the files are a DICOM series.
        problem: why it cannot be worked on; empty if it can.
    """

    name: str
    files: tuple[Path, ...]
    is_series: bool
    problem: str = ""


def find_inputs(root: Path, output_root: Path) -> list[BatchInput]:
    """The cases at or below a folder, in the order of their names.

    A series is all CT files with one SeriesInstanceUID, wherever they lie, with the DICOMDIR above them; localizers,
    other modalities and reports are passed over. So are earlier results of this bundle, hidden files and folders and
    those that are neither DICOM nor a volume. Links to folders are not followed, so that links cannot lead round in
    circles; links to files are.

    Args:
        root: searched with its subfolders.
        output_root: not searched, for results are no inputs.

    Raises:
        InputError: `root` is no folder, or there is nothing to do below it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: INPUT_ROOT must be a folder; for one file use scripts.complete")
    tree = _Tree(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on sloppy values
        for path in _files(tree, output_root):
            tree.sort_in(path)
    wanted = [*_volumes(tree), *_series(tree), *_problems(tree)]
    if not wanted:
        raise InputError(
            f"{root}: INPUT_ROOT must hold CT series or volume files, found none; {tree.told() or 'empty'}"
        )
    if tree.told():
        logger.info("%s", tree.told())
    names = distinct_names([candidates for candidates, _ in wanted])
    inputs = [
        BatchInput(name, each.files, each.is_series, each.problem and f"{name}: {each.problem}")
        for name, (_, each) in zip(names, wanted, strict=True)
    ]
    return sorted(inputs, key=lambda each: each.name)


@dataclass
class _SeriesFiles:
    files: list[Path] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)
    patient: set[str] = field(default_factory=set)  # words that no name may carry; never leaves this module

    @property
    def home(self) -> Path:
        """The folder of all its files."""
        return Path(os.path.commonpath(self.folders))


@dataclass
class _Tree:
    """What a walk over the folder has found so far."""

    root: Path
    volumes: list[Path] = field(default_factory=list)
    series: dict[str, _SeriesFiles] = field(default_factory=lambda: defaultdict(_SeriesFiles))
    unusable: list[tuple[Path, str]] = field(default_factory=list)  # might belong to a series
    closed: list[tuple[Path, str]] = field(default_factory=list)  # folders that cannot be listed
    directories: list[Path] = field(default_factory=list)  # DICOMDIR files, which list what must be there
    no_slices: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))  # of a series: its localizers
    passed_over: Counter[str] = field(default_factory=Counter)

    def told(self) -> str:
        """What was passed over, in words."""
        found = ", ".join(f"{count} {kind}" for kind, count in self.passed_over.most_common())
        return found and f"passed over: {found}"

    def sort_in(self, path: Path) -> None:
        """Find out what a file is."""
        if image_extension(path) and (path.is_file() or path.is_symlink()):  # a broken link is told of as a case
            self.volumes.append(path)
            return
        if not path.is_file():  # a pipe would wait for ever
            self.passed_over["pipes, devices and broken links"] += 1
            return
        try:
            found = identify(path, PATIENT_TAGS)
        except OSError as error:
            self.unusable.append((path, f"cannot be read ({error.strerror}); check its permissions"))
            return
        if found.is_cut:
            self.unusable.append((path, "a CT slice that is cut off in its header; copy it again, or take it out"))
        elif path.name.upper() == "DICOMDIR" and found.header is not None:
            self.directories.append(path)
        elif found.header is None or found.kind != CT:
            self.passed_over[PASSED_OVER.get(found.kind, "DICOM files that are no CT slices")] += 1
            if found.series_uid:
                self.no_slices[found.series_uid].append(path)
        else:
            series = self.series[found.series_uid or f"none in {path.parent}"]
            series.files.append(path)
            series.folders.add(path.parent)
            series.patient |= patient_words(*(str(found.header.get(tag, "")) for tag in PATIENT_TAGS))


def _files(tree: _Tree, output_root: Path) -> Iterator[Path]:
    def note(error: OSError) -> None:
        rule = f"the folder cannot be read ({error.strerror}); check its permissions"
        tree.closed.append((Path(error.filename or tree.root), rule))

    results = output_root.resolve()
    for folder, subfolders, names in os.walk(tree.root, onerror=note):
        here = Path(folder)
        links = [each for each in subfolders if (here / each).is_symlink()]
        tree.passed_over["links to folders"] += len(links)
        hidden = [each for each in [*subfolders, *names] if each.startswith(".")]
        tree.passed_over["hidden files and folders"] += len(hidden)
        subfolders[:] = sorted(
            each for each in set(subfolders) - {*links, *hidden} if (here / each).resolve() != results
        )
        if REPORT in names and is_result(here):
            tree.passed_over["earlier results"] += 1
            subfolders[:] = [each for each in subfolders if each != CANDIDATES]
            continue
        yield from (here / each for each in sorted(set(names) - set(hidden)))
    for kind in ("links to folders", "hidden files and folders"):
        if not tree.passed_over[kind]:
            del tree.passed_over[kind]


_Wanted = tuple[list[str], BatchInput]


def _volumes(tree: _Tree) -> Iterator[_Wanted]:
    for path in tree.volumes:
        extension = image_extension(path) or ""
        yield names_of_file(path.relative_to(tree.root), extension), BatchInput("", (path,), False)


def _series(tree: _Tree) -> Iterator[_Wanted]:
    """Each series, named after its folder where the folder holds no other one and says nothing of the patient."""
    in_folder = Counter(folder for series in tree.series.values() for folder in series.folders)
    unusable = defaultdict(list)
    for path, _ in tree.unusable:
        unusable[path.parent].append(path)
    for uid, series in tree.series.items():
        home = series.home
        alone = all(in_folder[folder] == 1 for folder in series.folders)
        if len(series.folders) > 1:
            others = in_folder.keys() - series.folders
            alone = alone and not any(home in (folder, *folder.parents) for folder in others)
        hashed = content_name("series", uid)
        relative = home.relative_to(tree.root)
        candidates = [name_of_folder(relative, tree.root.name), hashed]
        if not alone or carries_patient(str(relative) if relative.parts else tree.root.name, series.patient):
            candidates = [hashed]
        # What cannot be read may be one of its slices: reading the case will say so, rather than leave it out.
        files = [*series.files, *(path for folder in series.folders for path in unusable[folder])]
        directories = [path for path in tree.directories if path.parent in (home, *home.parents)]
        if directories:  # which list localizers among a series' files
            files += [*directories, *tree.no_slices[uid]]
        yield candidates, BatchInput("", tuple(sorted(files)), True)


def _problems(tree: _Tree) -> Iterator[_Wanted]:
    """What cannot be read and belongs to no series; its path could name the patient, so its name does not have it."""
    folders = {folder for series in tree.series.values() for folder in series.folders}
    alone = [(path, problem) for path, problem in tree.unusable if path.parent not in folders]
    for path, problem in [*alone, *tree.closed]:
        relative = str(path.relative_to(tree.root))
        yield [content_name("unreadable", relative)], BatchInput("", (path,), False, problem)
