"""Text, images, audio and videos to tensors. Placeholder strings are known here only; how many stand for a medium is computed in
token_counts_mmgpt."""

from copy import copy
from functools import partial

import numpy as np
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.utils import auto_docstring, is_torchvision_available

from .audio_loading_mmgpt import flatten_audio
from .chat_templates_mmgpt import (
    CHAT_TEMPLATE,
    DEFAULT_PROMPTS,
    KINDS,
    Chat,
    check_counts,
    check_prompts,
    mask_answers,
    render_chats,
    template_settings,
    with_media,
    without_media,
)
from .collating_mmgpt import PARTS, MMGPTCollator
from .configuration_mmgpt import AUTO_MAP
from .image_loading_mmgpt import is_image
from .media_loading_mmgpt import flatten_videos, open_media
from .media_sources_mmgpt import LIMITS, TRUSTED
from .preprocessing_mmgpt import (
    audio_chunks,
    audio_tokens,
    check_feature_extractor,
    check_image_processor,
    chunk_size,
    cuts_tiles,
    framing,
    image_chunks,
    image_tokens,
    plan_image,
    sampling,
    video_chunks,
    video_processor_like,
)
from .requests_mmgpt import check_length, longest_input, requests_refused
from .saving_mmgpt import atomic_folder
from .token_counts_mmgpt import (
    audio_geometry,
    audio_token_count,
    audio_windows,
    image_geometry,
    image_token_count,
    window_frames,
)
from .vllm_mmgpt import name_fields, one_entry_each


ARGUMENTS = dict(zip(KINDS, ("images", "audio", "videos"), strict=True))  # of the processor, for each kind
MISSING = {
    "image": "Images were given but the model has no vision encoder",
    "audio": "Audio was given but the model has no audio encoder",
    "video": "Videos were given but the model takes none (no vision encoder, no video_token_id in its config, or torchvision is not "
    "installed here)",
}


@auto_docstring
class MMGPTProcessor(ProcessorMixin):
    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        feature_extractor=None,
        video_processor=None,
        chat_template=None,
        image_token="<|image|>",
        audio_token="<|audio|>",
        video_token="<|video|>",
        image_geometry=None,
        audio_geometry=None,
        fixed_audio_window=False,
        max_tiles=None,
        context_length=None,
        prompts=None,
        media_limits=None,
        **kwargs,
    ):
        r"""
        image_token (`str`, *optional*, defaults to `"<|image|>"`):
            Placeholder of an image in text; the processor repeats it once for each token of the image.
        audio_token (`str`, *optional*, defaults to `"<|audio|>"`):
            The same for an audio clip.
        video_token (`str`, *optional*, defaults to `"<|video|>"`):
            The same for a video: it becomes, for each frame, the time of the frame as text and this token once for each of the
            frame's tokens.
        image_geometry (`dict`, *optional*):
            `patch_size` and `merge_size` of the model: how many tokens an image becomes.
        audio_geometry (`dict`, *optional*):
            `convolutions` and `merge_size` of the model: how many tokens an audio clip becomes.
        fixed_audio_window (`bool`, *optional*, defaults to `False`):
            Whether the audio encoder takes only spectrograms of the extractor's full length (Whisper's 30 seconds). The
            padding costs no tokens of the decoder, and longer audio is cut into several windows.
        max_tiles (`int`, *optional*):
            The most tiles that the model has position vectors for; `max_patches`, which a caller may choose, must not be more.
        context_length (`int`, *optional*):
            The most tokens that the model reads, its answer counted. A conversation that leaves no room for an answer is refused.
        prompts (`dict`, *optional*):
            The prompts of the pipelines' tasks, in the words that this model was trained on. Tasks that are not named keep the
            words of `DEFAULT_PROMPTS`.
        media_limits (`dict`, *optional*):
            Limits of media, by their names in `Limits`, that this model needs lower than they are. Whoever runs the model sets
            others, higher ones too, as the attribute `limits`, and where media may come from as `media_policy`.
        """
        self.image_token, self.audio_token, self.video_token = image_token, audio_token, video_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.video_token_id = None if video_processor is None else tokenizer.convert_tokens_to_ids(video_token)
        self.image_geometry, self.audio_geometry = image_geometry or {}, audio_geometry or {}
        self.fixed_audio_window = fixed_audio_window
        self.max_tiles = max_tiles
        self.context_length = context_length
        self.media_limits = dict(media_limits or {})
        self.limits, self.media_policy = LIMITS.lowered(**self.media_limits), TRUSTED
        check_prompts(prompts or {})
        self.prompts = {**DEFAULT_PROMPTS, **(prompts or {})}
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        parts = {
            "image_processor": image_processor,
            "tokenizer": tokenizer,
            "feature_extractor": feature_extractor,
            "video_processor": video_processor,
        }
        present = {name: part for name, part in parts.items() if part is not None}
        name_fields(present)
        # The mixin requires whatever the signature names; a model without a vision or audio encoder has no processor for it.
        self.get_attributes = partial(list, present)
        template = chat_template or tokenizer.chat_template or CHAT_TEMPLATE
        # A template that is given stays as it is: a saved one must come back the same.
        if chat_template is None and len(present) > 1 and not self.places_media(template):
            template = with_media(template, self.placeholders)
        super().__init__(**present, chat_template=template)

    @property
    def placeholders(self) -> dict[str, str]:
        """The placeholder of each kind of part of a message."""
        return {"image": self.image_token, "audio": self.audio_token, "video": self.video_token}

    def places_media(self, template) -> bool:
        return not isinstance(template, str) or any(token in template for token in self.placeholders.values())

    @classmethod
    def from_config(
        cls, config, tokenizer, image_processor=None, feature_extractor=None, video_processor=None, **kwargs
    ):
        """A processor whose placeholder counts are those of a model built from `config`.

        Without a `video_processor`, the frames of videos are prepared as the `image_processor` prepares images."""
        check_image_processor(config, image_processor)
        check_feature_extractor(config, feature_extractor)
        if config.vision_config is None or config.video_token_id is None:
            video_processor = None
        elif video_processor is None:
            video_processor = video_processor_like(image_processor)
        return cls(
            image_processor=image_processor,
            tokenizer=tokenizer,
            feature_extractor=feature_extractor,
            video_processor=video_processor,
            max_tiles=config.vision_max_tiles,
            context_length=longest_input(config.text_config),
            image_geometry=image_geometry(config),
            audio_geometry=audio_geometry(config),
            fixed_audio_window=window_frames(config.audio_config) is not None,
            **kwargs,
        )

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, AutoVideoProcessor

        loaders = {
            "image_processor": AutoImageProcessor,
            "tokenizer": AutoTokenizer,
            "feature_extractor": AutoFeatureExtractor,
            "video_processor": AutoVideoProcessor,
        }
        present = {"tokenizer", *(processor_dict or {})}
        if not is_torchvision_available():  # in some environments of serving engines: all but videos go without it
            present.discard("video_processor")
        return [
            loader.from_pretrained(pretrained_model_name_or_path, **kwargs) if name in present else None
            for name, loader in loaders.items()
        ]

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        if push_to_hub:
            return super().save_pretrained(save_directory, push_to_hub=True, **kwargs)
        if self.tokenizer.is_fast:  # else how the last batch was padded and cut would stand in tokenizer.json
            self.tokenizer.backend_tokenizer.no_padding()
            self.tokenizer.backend_tokenizer.no_truncation()
        with atomic_folder(save_directory) as folder:
            written = super().save_pretrained(folder, **kwargs)
        return [path.replace(str(folder), str(save_directory)) for path in written]

    @requests_refused()
    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if text is None and audio is None and isinstance(images, np.ndarray) and images.ndim == 1:
            # The transcriptions of `transformers serve`: a waveform in the first place, and nothing else.
            images, text, audio = None, self.speech_prompt, [images]
        if isinstance(text, str):
            text = [text]
        for kind, media in zip(KINDS, (images, audio, videos), strict=True):
            if media is not None:
                self.require(kind)
        if images is not None:
            # In transformers `do_rescale=False` says that arrays are floats of the range that the encoder takes.
            is_scaled = {**kwargs, **(kwargs.get("images_kwargs") or {})}.get("do_rescale") is False
            images = self.load_images(images, is_scaled)
        if audio is not None:
            clips = enumerate(flatten_audio(audio))
            audio = [self.load_medium("audio", clip, f"audio {index}") for index, clip in clips]
        videos = None if videos is None else flatten_videos(videos)
        return images, None if text is None else list(text), videos, audio

    def require(self, kind: str) -> None:
        """Refuses media that the model has no encoder for."""
        if not hasattr(self, PARTS[kind]):
            raise ValueError(f"{MISSING[kind]}: leave them out.")

    def load_images(self, images, is_scaled: bool) -> list:
        """Opens images in the nesting they come in: one, a list, or a list for each sample."""
        num_pixels = 0

        def load(source, *places: int):
            nonlocal num_pixels
            if isinstance(source, (list, tuple)):
                return [load(one, place, *places) for place, one in enumerate(source)]
            if is_scaled and hasattr(source, "ndim"):
                return source
            name = "image " + " of sample ".join(map(str, places))
            image = self.load_medium("image", source, name)
            num_pixels += 0 if is_image(source) else image.width * image.height
            if num_pixels > self.limits.request_pixels:
                raise ValueError(
                    f"{name}: with it the images of this request have {num_pixels:,} pixels, more than the "
                    f"{self.limits.request_pixels:,} that are taken: send fewer or smaller ones."
                )
            return image

        is_several = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        return [load(entry, index) for index, entry in enumerate(images if is_several else [images])]

    def load_medium(self, kind: str, source, name: str):
        """`source` as `open_media` returns it: audio at the model's sampling rate, as many frames of a video as it takes."""
        options = {}
        if kind == "audio":
            options["sampling_rate"] = self.feature_extractor.sampling_rate
        elif kind == "video":
            options["fps"], options["num_frames"] = sampling(self.video_processor)
        return open_media(source, kind, name, self.media_policy, self.limits, **options)

    @property
    def speech_prompt(self) -> str:
        """The prompt for audio that comes alone."""
        parts = [{"type": "audio"}, {"type": "text", "text": self.prompts["automatic-speech-recognition"]}]
        text = self.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        begin = self.tokenizer.bos_token
        tokenizer_begins = begin is not None and self.tokenizer("")["input_ids"] == [self.tokenizer.bos_token_id]
        return text.removeprefix(begin) if tokenizer_begins else text

    def batch_decode(self, sequences, *args, **kwargs):
        """As in transformers; where audio came alone, only the answer, without the prompt that the processor put before it."""
        if not hasattr(self, "feature_extractor"):
            return super().batch_decode(sequences, *args, **kwargs)
        own = self.tokenizer(self.speech_prompt)["input_ids"]
        place = own.index(self.audio_token_id)
        before, behind = own[:place], own[place + 1 :]
        answers = []
        for sequence in sequences:
            tokens = sequence.tolist() if hasattr(sequence, "tolist") else sequence
            end = len(before)
            while end < len(tokens) and tokens[end] == self.audio_token_id:
                end += 1
            asked = end > len(before) and tokens[: len(before)] == before and tokens[end : end + len(behind)] == behind
            answers.append(tokens[end + len(behind) :] if asked else tokens)
        return super().batch_decode(answers, *args, **kwargs)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if text is not None:
            # A list of frames is one video.
            for kind, media in zip(KINDS, (images, audio, videos and range(len(videos))), strict=True):
                found = [sample.count(self.placeholders[kind]) for sample in text]
                if isinstance(media, list) and len(media) == len(text) and all(isinstance(own, list) for own in media):
                    check_counts(found, [len(own) for own in media], self.placeholders[kind], kind)
                    continue
                given = len(make_flat_list_of_images(media)) if kind == "image" and media else len(media or [])
                if sum(found) != given:
                    raise ValueError(
                        f"The number of {self.placeholders[kind]} tokens in the prompts should be the same as the number of {KINDS[kind]}, "
                        f"but there are {sum(found)} tokens (in each sample: {found}) and {given} {KINDS[kind]}."
                    )
        # Counted already; transformers would count videos in a form that only its own reader of files returns.
        text = None if any(media is not None for media in (images, videos, audio)) else text
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _process_images(self, images, **kwargs):
        if self.max_tiles is not None and (kwargs.get("max_patches") or 0) > self.max_tiles:
            raise ValueError(
                f"max_patches={kwargs['max_patches']}, but the model has positions for {self.max_tiles} tiles: ask for fewer."
            )
        images = make_flat_list_of_images(images)
        processed = image_chunks(self.image_processor, images, **kwargs)
        counts = image_tokens(processed, len(images), self.image_geometry)
        return processed, [self.image_token * count for count in counts]

    def _process_audio(self, audio, **kwargs):
        processed = audio_chunks(self.feature_extractor, audio, *self.audio_windowing, **kwargs)
        texts = [self.audio_token * count for count in audio_tokens(processed, self.audio_geometry)]
        return one_entry_each(processed), texts

    def _process_videos(self, videos, fps=None, num_frames=None, do_sample_frames=None, **kwargs):
        fps, num_frames = sampling(self.video_processor, fps, num_frames)
        if do_sample_frames is False:
            num_frames = None
        elif do_sample_frames and any(
            set(video) == {"frames"} if isinstance(video, dict) else isinstance(video, (list, tuple))
            for video in videos
        ):
            raise ValueError(
                "Sampling frames from a list of images is not supported! Set `do_sample_frames=False`, or say how many of them "
                'make a second: {"frames": [...], "fps": 2}.'
            )
        if kwargs.get("do_rescale") is False and self.video_processor.do_rescale:
            del kwargs["do_rescale"]  # frames that were scaled are of 8 bits again
        opening = {"policy": self.media_policy, "limits": self.limits, "fps": fps, "num_frames": num_frames}
        videos = [open_media(video, "video", f"video {index}", **opening) for index, video in enumerate(videos)]
        processed = video_chunks(self.video_processor, videos, **kwargs)
        height, width = processed["pixel_values_videos"].shape[-2:]
        frame = self.video_token * image_token_count(height, width, **self.image_geometry)
        # Before each frame its time in seconds, such as "<0.5 s>".
        texts = ["".join(f"<{time:.1f} s>{frame}" for time in video["times"]) for video in videos]
        return one_entry_each(processed), texts

    @property
    def audio_windowing(self) -> tuple[int | None, int]:
        """Samples that the audio encoder takes at a time, where it takes no other number, and those that shorter audio is padded to."""
        frames = framing(self.feature_extractor)
        window = frames.window if self.fixed_audio_window else None
        return window, frames.shortest(self.audio_geometry["convolutions"])

    @requests_refused()
    def apply_chat_template(
        self,
        conversation,
        chat_template=None,
        tokenize=False,
        return_dict=False,
        return_tensors=None,
        return_assistant_tokens_mask=False,
        add_generation_prompt=False,
        processor_kwargs=None,
        sanitize_control_tokens=True,
        **kwargs,
    ):
        """As in transformers, and with any decoder's own template: one that knows only text gets media as placeholders.

        Media are opened here, in every form that `open_media` takes; transformers would need torchcodec. Videos are frames alone:
        the `load_audio_from_video` of `transformers serve` changes nothing. Unless `sanitize_control_tokens` is `False`, role marks,
        end marks and placeholders in texts are encoded as text; a prompt that is not tokenised here holds them as they are. With `return_assistant_tokens_mask` the outputs have
        the attribute `media_spans` too, see `mask_answers`."""
        kwargs.pop("load_audio_from_video", None)
        named = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        chat_template = chat_template or "default"
        template = without_media(named.get(chat_template, chat_template))
        settings = {name: kwargs.pop(name) for name in kwargs.keys() & template_settings(template)}
        rendered = render_chats(
            conversation,
            template,
            self.tokenizer,
            self.placeholders,
            is_flat=chat_template in named and not self.places_media(template),
            sanitize_control_tokens=tokenize and sanitize_control_tokens,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            add_generation_prompt=add_generation_prompt,
            **settings,
        )
        texts, options = rendered.texts, {**(processor_kwargs or {}), **kwargs}
        if not tokenize:
            return texts if rendered.is_batched else texts[0]
        if self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token):
            options["add_special_tokens"] = False  # the template wrote it
        if return_tensors not in (None, "auto"):
            options["return_tensors"] = return_tensors
        if return_assistant_tokens_mask:
            options |= {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
        media = self.media_inputs(rendered.chats, texts)
        if "audio" in media:  # of the rate that it was opened at, whatever was asked for
            rate = {"sampling_rate": self.feature_extractor.sampling_rate}
            own = options.get("audio_kwargs") or {}
            options |= {"audio_kwargs": {**own, **rate}} if "sampling_rate" in own else rate
        reader = self
        if rendered.tokenizer is not self.tokenizer:
            reader = copy(self)
            reader.tokenizer = rendered.tokenizer
        outputs = reader(text=texts, **{**media, **options})
        if return_assistant_tokens_mask:
            mask_answers(outputs, rendered.spans)
            outputs.convert_to_tensors(options.get("return_tensors"))
        if add_generation_prompt:
            check_length(self.context_length, max(map(len, outputs["input_ids"])))
        return outputs if return_dict else outputs["input_ids"]

    def media_inputs(self, chats: list[Chat], texts: list[str]) -> dict:
        """The media of conversations as the processor is called with them, as many in each sample as its text has places for."""
        inputs = {}
        for kind, argument in ARGUMENTS.items():
            media = [chat.media[kind] for chat in chats]
            if not any(source is not None for own in media for source in own):
                continue
            self.require(kind)
            token = self.placeholders[kind]
            check_counts([text.count(token) for text in texts], [len(own) for own in media], token, kind)
            if kind == "audio":  # opened here, where their sample is known
                media = [
                    self.load_medium(kind, source, f"{kind} {place} of sample {index}")
                    for index, own in enumerate(media)
                    for place, source in enumerate(own)
                ]
            inputs[argument] = media
        return inputs

    def _get_num_multimodal_tokens(
        self, image_sizes=None, audio_lengths=None, video_sizes=None, **kwargs
    ) -> MultiModalData:
        """Tokens of media that are not there yet (serving engines plan with them).

        Args:
            image_sizes: `(height, width)` in pixels of each image.
            audio_lengths: number of samples of each audio clip, at the extractor's rate.
            video_sizes: `(num_frames, height, width)` of each video, of the frames that are taken.
            kwargs: what the image processor would be called with, such as `max_patches`.
        """
        counts = {}
        if image_sizes is not None:
            plans = [plan_image(self.image_processor, *size, self.image_geometry, **kwargs) for size in image_sizes]
            counts["num_image_tokens"], counts["num_image_patches"] = [
                list(one) for one in zip(*plans, strict=True)
            ] or ([], [])
        if audio_lengths is not None:
            frames = framing(self.feature_extractor).frames
            counts["num_audio_tokens"] = [
                sum(
                    audio_token_count(frames(samples, self.fixed_audio_window), **self.audio_geometry)
                    for samples in audio_windows(length, *self.audio_windowing)
                )
                for length in audio_lengths
            ]
        if video_sizes is not None:
            frame = image_token_count(*chunk_size(self.video_processor), **self.image_geometry)
            counts["num_video_tokens"] = [frame * num_frames for num_frames, _, _ in video_sizes]
        return MultiModalData(**counts)

    @property
    def unused_input_names(self) -> list[str]:
        return ["pixel_attention_mask"]

    @property
    def model_input_names(self) -> list[str]:
        names = super().model_input_names
        if hasattr(self, "image_processor") and cuts_tiles(self.image_processor):
            names.append("tile_positions")
        if hasattr(self, "video_processor"):
            names.append("num_frames_per_video")
        if hasattr(self, "feature_extractor"):
            # Waveforms ("input_values" of wav2vec 2.0) go by the same name as spectrograms here.
            names = ["input_features" if name == "input_values" else name for name in names] + ["input_features_mask"]
            names += ["audio_windows"] if self.fixed_audio_window else []
        return names


__all__ = ["MMGPTCollator", "MMGPTProcessor"]  # the collator travels with the processor: fine-tuning needs both
