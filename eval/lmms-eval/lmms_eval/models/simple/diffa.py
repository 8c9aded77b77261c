"""DIFFA as a model of lmms_eval: requests with a clip in, answers out, in batches."""

import functools
from importlib.util import find_spec

from datasets import Audio
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager
from writer_model import WriterModel

from diffa.evaluation.files import FLOORS, exchanged
from dllm.program import boundary

OF_OTHER_MODELS = ("do_sample", "top_p", "num_beams", "max_new_tokens")
NEEDED = {  # by the first letters of a task: what it imports beyond lmms_eval, as packages are imported
    "librispeech": ("editdistance", "zhconv", "more_itertools"),
    "voicebench_ifeval": ("langdetect", "immutabledict", "nltk"),
}


class Diffa(WriterModel):
    """Writes one answer per request with the checkpoint in `pretrained`.

    `llm_path` and `whisper_path` are the folders of its frozen parts, if they are no longer where the checkpoint says.
    `floor` "shuffled_audio" gives every request the clip of another one of its process, "no_audio" none. A canvas is as
    long as the checkpoint's, or as the task's max_new_tokens if that is less; `gen_length` in --gen_kwargs goes before
    both. Raises ValueError (as one line and exit status 1) for an unknown model argument, an incomplete checkpoint
    folder, a clip that cannot be read, and a task that needs packages which are not there.
    """

    name = "diffa"
    unit = "answer"

    @boundary()
    def __init__(
        self,
        pretrained: str = "",
        llm_path: str | None = None,
        whisper_path: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        floor: str | None = None,
        cut_long_audio: bool = False,
        batch_size: int | str = 1,
        **unknown,
    ) -> None:
        super().__init__()
        given = {"llm_path": llm_path, "whisper_path": whisper_path, "device": device, "dtype": dtype, "floor": floor}
        self.prepare(pretrained, given | {"cut_long_audio": cut_long_audio}, unknown, batch_size)
        if floor is not None and floor not in FLOORS:
            raise ValueError(f"unknown floor {floor!r}; known: {', '.join(FLOORS)}")
        from diffa.inference import SpeechWriter

        self.writer = SpeechWriter(pretrained, llm_path, whisper_path, str(self.device), dtype)
        self.floor, self.cut_long_audio = floor, cut_long_audio
        keep_audio_encoded()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        if self.floor == "shuffled_audio":
            self.donors = exchanged(request.args[3:] for request in requests)  # (number, task, split)
        return super().generate_until(requests)

    def gen_kwargs(self, request: Instance) -> dict:
        gen_kwargs = super().gen_kwargs(request)
        limit = gen_kwargs.get("max_new_tokens", self.writer.diffusion.gen_length)
        if gen_kwargs.get("do_sample") or gen_kwargs.get("num_beams", 1) != 1:
            raise ValueError("diffa samples by temperature and has no beams: leave do_sample and num_beams out")
        ours = {name: value for name, value in gen_kwargs.items() if name not in OF_OTHER_MODELS}
        return {"gen_length": min(limit, self.writer.diffusion.gen_length)} | ours

    def request(self, args: tuple):
        """Read the clip of a request."""
        from dllm.inference.writer import Request

        context, _, doc_to_visual, *document = args
        number, task, split = self.donors[tuple(document)] if self.floor == "shuffled_audio" else document
        name = f"document {number} of {task}"
        clips = [] if self.floor == "no_audio" else doc_to_visual(self.task_dict[task][split][number])
        return Request([self._clip(clip, name) for clip in clips], context, seed=document[0], name=name)

    def _clip(self, clip: dict, name: str):
        """The samples of an audio file as `datasets` holds one that is not decoded."""
        from diffa.data.audio import fit, read_audio

        if not isinstance(clip, dict) or not (clip.get("bytes") or clip.get("path")):
            raise ValueError(f"{name} has no audio file: mend its data set")
        samples = read_audio(clip.get("bytes") or clip["path"], name)
        return fit(samples, self.writer.preprocessor.max_samples, self.cut_long_audio, name)


def keep_audio_encoded() -> None:
    """From now on tasks hold the files of their clips, which we read: to decode them, `datasets` needs torchcodec. A
    task whose packages are missing is refused.
    """
    load, download = TaskManager.load_task_or_group, ConfigurableTask.download
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_task_or_group(self, task_list=None, *args, **kwargs):
        with boundary():
            check_packages([task_list] if isinstance(task_list, str) else task_list or [])
        return load(self, task_list, *args, **kwargs)

    @functools.wraps(download)
    def download_encoded(self, *args, **kwargs):
        download(self, *args, **kwargs)
        for name, split in self.dataset.items():
            for column, feature in split.features.items():
                if isinstance(feature, Audio):
                    split = split.cast_column(column, Audio(decode=False))
            self.dataset[name] = split

    TaskManager.load_task_or_group, ConfigurableTask.download = load_task_or_group, download_encoded


def check_packages(tasks: list) -> None:
    """Raises ValueError if a task, or one of its group, imports what is not installed."""
    for task in map(str, tasks):
        for start, packages in NEEDED.items():
            missing = [package for package in packages if find_spec(package) is None]
            if missing and (task.startswith(start) or start.startswith(f"{task}_")):
                remedy = "pip install -e 'eval/lmms-eval[speech]', or leave the task out"
                raise ValueError(f"{task} needs {', '.join(missing)}: {remedy}")
