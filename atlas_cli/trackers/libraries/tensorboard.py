"""TensorBoard: event files in the run directory, under tensorboard/. `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from atlas_cli.trackers.libraries.contract import BaseTracker, TrackedRun


class Tracker(BaseTracker):
    """Scalars by round, and the config and the summary as text. A resumed run adds a file to those that are there."""

    needs: ClassVar[Sequence[str]] = ("tensorboard",)

    def start(self, run: TrackedRun) -> None:
        """Open a file; readers forget what was told of later rounds than the one that the run goes on from."""
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(run.folder / "tensorboard"))
        if run.resumed_after is not None:
            began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(run.resumed_after + 1, session_log=began)
        self._text("config", run.config)
        self._last = 0

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """A scalar for each figure, on disk at once."""
        from tensorboard.compat.proto import summary_pb2

        values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(round, summary=summary_pb2.Summary(value=values))
        self._writer.flush()
        self._last = round

    def finish(self, status: str, summary: Mapping[str, float]) -> None:
        """The summary as text, and the end of the file."""
        self._text("summary", {"status": status, **summary}, self._last)
        self._writer.close()

    def _text(self, tag: str, content: Mapping[str, Any], step: int = 0) -> None:
        """JSON in a code block, as the text dashboard shows it."""
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

        text = "".join(f"    {line}\n" for line in json.dumps(content, indent=2).splitlines())
        kind = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()])
        value = summary_pb2.Summary.Value(
            tag=f"{tag}/text_summary", tensor=tensor, metadata=summary_pb2.SummaryMetadata(plugin_data=kind)
        )
        self._add(step, summary=summary_pb2.Summary(value=[value]))

    def _add(self, step: int, **what: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, **what))
