"""Text, images, audio and videos to tensors. Placeholder strings are known here only; how many stand for a medium is computed in
token_counts_mmgpt."""

from functools import partial

import numpy as np
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.utils import auto_docstring, is_torchvision_available

from .audio_loading_mmgpt import flatten_audio
from .chat_templates_mmgpt import (
    CHAT_TEMPLATE,
    DEFAULT_PROMPTS,
    assistant_spans,
    check_prompts,
    flatten,
    locate,
    media_of,
    with_media,
    without_media,
)
from .collating_mmgpt import MMGPTCollator
from .configuration_mmgpt import AUTO_MAP
from .image_loading_mmgpt import is_image
from .media_loading_mmgpt import flatten_videos, open_frames, open_media
from .media_sources_mmgpt import LIMITS, TRUSTED
from .preprocessing_mmgpt import (
    audio_chunks,
    check_feature_extractor,
    check_image_processor,
    chunk_size,
    cuts_tiles,
    framing,
    image_chunks,
    patch_grid,
    sampling,
    takes_any_size,
    tile_grid,
    tile_positions,
    video_chunks,
    video_processor_like,
)
from .requests_mmgpt import check_length, longest_input, requests_refused
from .saving_mmgpt import atomic_folder
from .token_counts_mmgpt import (
    audio_geometry,
    audio_token_count,
    audio_windows,
    grid_token_count,
    image_geometry,
    image_token_count,
    tiles_per_image,
    window_frames,
)
from .vllm_mmgpt import name_fields, one_entry_each


# Before 5.23 transformers decodes the media of a conversation itself, with no way to do it otherwise.
LIBRARY_TAKES_MEDIA = hasattr(ProcessorMixin, "_multimodal_inputs_from_conversations")


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
        for tower, part, name in (
            (config.vision_config, image_processor, "image_processor"),
            (config.audio_config, feature_extractor, "feature_extractor"),
        ):
            if tower is not None and part is None:
                raise ValueError(f"The model has a {tower.model_type!r} encoder: give the {name} that feeds it.")
        if config.vision_config is not None:
            check_image_processor(config, image_processor)
        if config.audio_config is not None:
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
        if images is not None:
            if not hasattr(self, "image_processor"):
                raise ValueError("Images were given but the model has no vision encoder: leave them out.")
            if getattr(images, "ndim", 0) == 4:  # an array of several images
                images = [*images]
            # In transformers `do_rescale=False` says that arrays are floats of the range that the encoder takes.
            is_scaled = {**kwargs, **(kwargs.get("images_kwargs") or {})}.get("do_rescale") is False
            num_pixels = 0

            def load(source, name: str):
                nonlocal num_pixels
                if is_scaled and hasattr(source, "ndim"):
                    return source
                image = self.load_medium("image", source, name)
                num_pixels += 0 if is_image(source) else image.width * image.height
                if num_pixels > self.limits.request_pixels:
                    raise ValueError(
                        f"{name}: with it the images of this request have {num_pixels:,} pixels, more than the {self.limits.request_pixels:,} "
                        "that are taken: send fewer or smaller ones."
                    )
                return image

            # Decoded in the nesting they came in: one, a list, or a list for each sample.
            images = [
                [load(item, f"image {place} of sample {index}") for place, item in enumerate(entry)]
                if isinstance(entry, (list, tuple))
                else load(entry, f"image {index}")
                for index, entry in enumerate(images if isinstance(images, (list, tuple)) else [images])
            ]
        if audio is not None:
            if not hasattr(self, "feature_extractor"):
                raise ValueError("Audio was given but the model has no audio encoder: leave it out.")
            audio = [
                self.load_medium("audio", item, f"audio {index}") for index, item in enumerate(flatten_audio(audio))
            ]
        if videos is not None:
            if not hasattr(self, "video_processor"):
                raise ValueError(
                    "Videos were given but the model takes none (no vision encoder, no video_token_id in its config, or torchvision "
                    "is not installed here): leave them out."
                )
            videos = flatten_videos(videos)
        return images, None if text is None else list(text), videos, audio

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
            self.check_counts(text, images, self.image_token, "images")
            self.check_counts(text, audio, self.audio_token, "audio clips")
            places = None if videos is None else range(len(videos))  # a list of frames is one video
            self.check_counts(text, places, self.video_token, "videos")
        # Counted already; transformers would count videos in a form that only its own reader of files returns.
        text = None if any(media is not None for media in (images, videos, audio)) else text
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def check_counts(self, text, media, token: str, kind: str) -> None:
        """As many placeholders as media: in each sample where they come sample by sample, else in all."""
        placeholders = [sample.count(token) for sample in text]
        media = [] if media is None else media
        if len(media) == len(text) and all(isinstance(entry, list) for entry in media):
            for index, (expected, given) in enumerate(zip(placeholders, map(len, media), strict=True)):
                if expected != given:
                    raise ValueError(
                        f"Sample {index} has {expected} {token} in its text but {given} {kind} were given with it."
                    )
            return
        given = len(make_flat_list_of_images(media)) if kind == "images" and len(media) else len(media)
        if sum(placeholders) != given:
            raise ValueError(
                f"The number of {token} tokens in the prompts should be the same as the number of {kind}, but there are "
                f"{sum(placeholders)} tokens (in each sample: {placeholders}) and {given} {kind}."
            )

    def grid_tokens(self, rows: int, columns: int) -> int:
        """Tokens of an image of so many patches."""
        geometry = self.image_geometry
        return grid_token_count(rows, columns, geometry["merge_size"], geometry.get("tokens_per_row"))

    def _process_images(self, images, **kwargs):
        if self.max_tiles is not None and (kwargs.get("max_patches") or 0) > self.max_tiles:
            raise ValueError(
                f"max_patches={kwargs['max_patches']}, but the model has positions for {self.max_tiles} tiles: ask for fewer."
            )
        images = make_flat_list_of_images(images)
        processed = image_chunks(self.image_processor, images, **kwargs)
        if "spatial_shapes" in processed:
            return processed, [
                self.image_token * self.grid_tokens(*grid) for grid in processed["spatial_shapes"].tolist()
            ]
        tiles = tiles_per_image(processed["tile_positions"]).tolist() if "tile_positions" in processed else None
        texts = []
        for index in range(len(images)):
            height, width = processed["pixel_values"][index].shape[-2:]  # all tiles are of one size
            count = image_token_count(height, width, **self.image_geometry)
            texts.append(self.image_token * (count if tiles is None else tiles[index] * count))
        return processed, texts

    def _process_audio(self, audio, **kwargs):
        processed = audio_chunks(self.feature_extractor, audio, self.audio_window, self.shortest_waveform, **kwargs)
        frames = processed["input_features_mask"].sum(-1)  # (windows of all audio clips,)
        ends = np.cumsum(processed.get("audio_windows", np.ones(len(frames), dtype=int)))
        counts = [audio_token_count(own, **self.audio_geometry).sum() for own in np.split(frames, ends[:-1])]
        texts = [self.audio_token * int(count) for count in counts]
        return one_entry_each(processed), texts

    def _process_videos(self, videos, fps=None, num_frames=None, do_sample_frames=None, **kwargs):
        fps, num_frames = sampling(self.video_processor, fps, num_frames)
        if do_sample_frames is False:
            num_frames = None
        elif do_sample_frames and any(isinstance(video, (list, tuple)) for video in videos):
            raise ValueError(
                "Sampling frames from a list of images is not supported! Set `do_sample_frames=False`, or say how many of them "
                'make a second: {"frames": [...], "fps": 2}.'
            )
        if kwargs.get("do_rescale") is False and self.video_processor.do_rescale:
            del kwargs["do_rescale"]  # frames that were scaled are of 8 bits again
        rate = {"fps": fps, "num_frames": num_frames}
        videos = [
            open_media(video, "video", f"video {index}", self.media_policy, self.limits, **rate)
            for index, video in enumerate(videos)
        ]
        processed = video_chunks(self.video_processor, videos, **kwargs)
        height, width = processed["pixel_values_videos"].shape[-2:]
        frame = self.video_token * image_token_count(height, width, **self.image_geometry)
        # Before each frame its time in seconds, such as "<0.5 s>".
        texts = ["".join(f"<{time:.1f} s>{frame}" for time in video["times"]) for video in videos]
        return one_entry_each(processed), texts

    @property
    def audio_window(self) -> int | None:
        """Samples that the audio encoder takes at a time, where it takes no other number."""
        return framing(self.feature_extractor).window if self.fixed_audio_window else None

    @property
    def shortest_waveform(self) -> int:
        """Samples that shorter audio is padded to: enough for a spectrogram, and for one token."""
        return framing(self.feature_extractor).shortest(self.audio_geometry["convolutions"])

    @requests_refused()
    def apply_chat_template(self, conversation, chat_template=None, **kwargs):
        """As in transformers, and with any decoder's own template: one that knows only text gets media as placeholders."""
        if not len(conversation):
            raise ValueError("The conversation is empty: give at least one message.")
        template = self.chat_template
        template = without_media(template) if isinstance(template, str) else template
        if chat_template is not None or (self.places_media(template) and LIBRARY_TAKES_MEDIA):
            outputs = super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)
        else:
            outputs = self.apply_text_template(conversation, template, **kwargs)
        if kwargs.get("add_generation_prompt") and kwargs.get("return_dict"):
            check_length(self.context_length, max(map(len, outputs["input_ids"])))
        return outputs

    def apply_text_template(
        self,
        conversation,
        chat_template: str,
        tokenize=False,
        return_dict=False,
        return_assistant_tokens_mask=False,
        return_tensors=None,
        processor_kwargs=None,
        **kwargs,
    ):
        """`apply_chat_template` with templates that know only text: the message's parts become one string first."""
        is_batched = bool(conversation) and isinstance(conversation[0], (list, tuple))
        conversations = conversation if is_batched else [conversation]
        flat = [[flatten(message, self.placeholders) for message in messages] for messages in conversations]
        render = partial(super().apply_chat_template, chat_template=chat_template, **kwargs)
        texts = [render(messages) for messages in flat]
        if not tokenize:
            return texts if is_batched else texts[0]
        arguments = dict(processor_kwargs or {})
        if self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token):
            arguments.setdefault("add_special_tokens", False)  # the template wrote it
        images = [media_of(messages, "image") for messages in conversations]
        clips = [clip for messages in conversations for clip in media_of(messages, "audio")]
        videos = [
            [open_frames(video, self.media_policy, self.limits) for video in media_of(messages, "video")]
            for messages in conversations
        ]
        if return_assistant_tokens_mask:
            arguments |= {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
        outputs = self(
            text=texts,
            images=images if any(images) else None,
            videos=videos if any(videos) else None,
            audio=clips or None,
            return_tensors=return_tensors,
            **arguments,
        )
        if return_assistant_tokens_mask:
            end_tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
            spans = [
                assistant_spans(messages, text, render, end_tokens) for messages, text in zip(flat, texts, strict=True)
            ]
            self._adjust_assistant_masks_indices(outputs, spans).convert_to_tensors(return_tensors)
        return outputs if return_dict else outputs["input_ids"]

    def _adjust_assistant_masks_indices(self, processed_dict, generation_indices):
        """`assistant_masks`: 1 for each token that lies in a span of what the assistant says, in the text before placeholders were
        repeated. Beside it, `media_spans`: kind, first token and end of each medium in each sample, for whoever cuts the text.

        transformers walks over every token here, which takes longer than a small model's step."""
        offsets = processed_dict.pop("offset_mapping")
        replacements = processed_dict.pop("text_replacement_offsets", None) or [[]] * len(offsets)
        masks, media = [], []
        for own_offsets, own_replacements, spans in zip(offsets, replacements, generation_indices, strict=True):
            mask, found = locate(np.asarray(own_offsets), own_replacements, spans)
            masks.append(mask.tolist())
            media.append(found)
        processed_dict["assistant_masks"] = masks
        processed_dict.media_spans = media
        return processed_dict

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        """Audio is decoded here, by soundfile, and may also come as base64; transformers would need torchcodec."""
        decoded = []
        for index, conversation in enumerate(conversations):
            name = f"audio of conversation {index}"
            decoded.append([self.decode_message(message, audio_loading_params, name) for message in conversation])
        # `transformers serve` asks for the audio of each video where the model takes audio; here videos are frames alone.
        return super()._multimodal_inputs_from_conversations(decoded, audio_loading_params)

    def decode_message(self, message: dict, audio_loading_params: dict, name: str) -> dict:
        if not isinstance(message.get("content"), list):
            return message
        content = []
        for part in message["content"]:
            kind = part.get("type")
            key = next((key for key in (kind, "url", "path", "base64") if key in part), None)
            if kind == "audio" and key is not None:
                rate = audio_loading_params["sampling_rate"]
                audio = open_media(part[key], "audio", name, self.media_policy, self.limits, sampling_rate=rate)
                part = {"type": "audio", "audio": audio}
            elif kind == "video" and key is not None:
                part = {"type": "video", "video": open_frames(part[key], self.media_policy, self.limits)}
            content.append(part)
        return {**message, "content": content}

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
            sizes = [self.image_tokens(height, width, **kwargs) for height, width in image_sizes]
            counts["num_image_tokens"] = [tokens for tokens, _ in sizes]
            counts["num_image_patches"] = [chunks for _, chunks in sizes]
        if audio_lengths is not None:
            frames = framing(self.feature_extractor).frames
            counts["num_audio_tokens"] = [
                sum(
                    audio_token_count(frames(samples, self.fixed_audio_window), **self.audio_geometry)
                    for samples in audio_windows(length, self.audio_window, self.shortest_waveform)
                )
                for length in audio_lengths
            ]
        if video_sizes is not None:
            size = chunk_size(self.video_processor)
            frame = image_token_count(*size, **self.image_geometry)
            counts["num_video_tokens"] = [frame * num_frames for num_frames, _, _ in video_sizes]
        return MultiModalData(**counts)

    def image_tokens(self, height: int, width: int, **kwargs) -> tuple[int, int]:
        """Tokens of an image of so many pixels, and the number of chunks that the vision encoder takes it in."""
        if takes_any_size(self.image_processor):
            return self.grid_tokens(*patch_grid(self.image_processor, height, width, **kwargs)), 1
        chunks = 1
        if cuts_tiles(self.image_processor):
            grid = tile_grid(self.image_processor, height, width, **kwargs)
            chunks = len(tile_positions(*grid))
        return chunks * image_token_count(*chunk_size(self.image_processor), **self.image_geometry), chunks

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
