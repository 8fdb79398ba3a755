"""TensorBoard event files without torch. `tensorboard` is imported when a sink is made."""

from __future__ import annotations

import logging
import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rlagents.errors import ConfigError, RlagentsError, boundary
from rlagents.visible import escape

MAX_TEXT = 200_000
"""Characters of one text; the middle of a longer one is left out."""
PNG = b"\x89PNG\r\n\x1a\n"
"""What every PNG begins with; its header with width and height follows."""

_log = logging.getLogger(__name__)


class TensorBoardSink:
    """Event files for TensorBoard. What is logged is in the file when the call returns.

    Args:
        folder: of the event files.
        resume_step: what earlier files hold for this step and later is removed.
        stale: (step, tag) -> whether a point of an earlier step is to be removed too.

    Raises:
        ConfigError: when the folder can't be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        resume_step: int | None = None,
        stale: Callable[[int, str], bool] = lambda step, tag: False,
    ) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = Path(folder)
        self.skipped = 0
        """Values left out because they were not finite: they would hide the whole curve."""
        self._proto = _protos()
        with boundary(ConfigError, f"can't write the TensorBoard folder {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if resume_step is not None:
                _forget(self.folder, resume_step, stale, self._proto)
            self._writer: EventFileWriter | None = EventFileWriter(str(self.folder))
        if resume_step is not None:
            # For a TensorBoard that is already open and holds the removed points in memory.
            session = self._proto["SessionLog"]
            self._add(resume_step, session_log=session(status=session.START))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point of each curve.

        Raises:
            RlagentsError: when the disk refuses.
        """
        value_type = self._proto["Summary"].Value
        values = []
        for name, value in metrics.items():
            if math.isfinite(value):
                values.append(value_type(tag=name, simple_value=float(value)))
                continue
            if not self.skipped:
                _log.warning("%s is %s at step %d; such points are left out", name, value, step)
            self.skipped += 1
        if values:
            self._add(step, summary=self._proto["Summary"](value=values))

    def text(self, step: int, tag: str, text: str) -> None:
        """Show a text as it is: nothing in it becomes Markdown, HTML, a link or an image.

        Raises:
            RlagentsError: when the disk refuses.
        """
        summary, metadata = self._proto["Summary"], self._proto["SummaryMetadata"]
        plugin = self._proto["TextPluginData"](version=0).SerializeToString()
        value = summary.Value(
            tag=f"{tag}/text_summary",
            metadata=metadata(plugin_data=metadata.PluginData(plugin_name="text", content=plugin)),
            tensor=self._proto["TensorProto"](
                dtype=self._proto["DT_STRING"], string_val=[as_code(text).encode()]
            ),
        )
        self._add(step, summary=summary(value=[value]))

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Show a picture.

        Raises:
            ValueError: when it is no PNG.
            RlagentsError: when the disk refuses.
        """
        if png[:8] != PNG or len(png) < 24:
            raise ValueError(f"expected a PNG, got bytes that begin with {png[:8]!r}")
        width, height = struct.unpack(">II", png[16:24])
        summary = self._proto["Summary"]
        picture = summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._add(step, summary=summary(value=[summary.Value(tag=tag, image=picture)]))

    def close(self) -> None:
        """Close the file; may be called twice.

        Raises:
            RlagentsError: when the disk refuses.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            with boundary(RlagentsError, f"can't write the TensorBoard folder {self.folder}"):
                writer.close()

    def _add(self, step: int, **content: Any) -> None:
        if self._writer is None:
            raise ValueError("the TensorBoard sink is closed")
        event = self._proto["Event"](wall_time=time.time(), step=step, **content)
        with boundary(RlagentsError, f"can't write the TensorBoard folder {self.folder}"):
            self._writer.add_event(event)
            # A run that is killed later resumes after its checkpoint: no point may be lost.
            self._writer.flush()


def as_code(text: str) -> str:
    """Turn a text into a Markdown code block that nothing inside can end.

    A fence ends where the text repeats it; four spaces before each line can't be taken back.
    Control characters, which Markdown and terminals give a meaning, become visible escapes.
    """
    if len(text) > MAX_TEXT:
        half = MAX_TEXT // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
    return "\n".join("    " + line for line in escape(text).split("\n"))


def _forget(
    folder: Path, step: int, stale: Callable[[int, str], bool], proto: Mapping[str, Any]
) -> None:
    """Remove what event files hold for `step` and later, and what is stale.

    TensorBoard's own purging at a session start leaves texts where they are.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    for path in sorted(folder.glob("events.out.tfevents.*")):
        if path.suffix == ".new":
            path.unlink()
            continue
        events = list(_read_events(path, proto))
        kept = [
            data
            for data, event in events
            if not (tags := [value.tag for value in event.summary.value])
            or (event.step < step and not any(stale(event.step, tag) for tag in tags))
        ]
        if len(kept) == len(events):
            continue
        temporary = path.with_name(path.name + ".new")
        with temporary.open("wb") as file:
            writer = RecordWriter(file)
            for data in kept:
                writer.write(data)
            writer.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _read_events(path: Path, proto: Mapping[str, Any]) -> Iterator[tuple[bytes, Any]]:
    """Events up to the end, or to the first damaged byte: TensorBoard reads no further either."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    for data in RawEventFileLoader(str(path)).Load():
        yield data, proto["Event"].FromString(data)


def _protos() -> dict[str, Any]:
    # By name: the classes are made at run time, so that no type checker knows them.
    places = {
        "tensorboard.compat.proto.event_pb2": ("Event", "SessionLog"),
        "tensorboard.compat.proto.summary_pb2": ("Summary", "SummaryMetadata"),
        "tensorboard.compat.proto.tensor_pb2": ("TensorProto",),
        "tensorboard.compat.proto.types_pb2": ("DT_STRING",),
        "tensorboard.plugins.text.plugin_data_pb2": ("TextPluginData",),
    }
    return {
        name: getattr(import_module(module), name)
        for module, names in places.items()
        for name in names
    }
