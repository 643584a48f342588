"""Text, images and sounds to tensors. Only this file knows placeholder strings; how many stand for an item it asks
lengths_mmgpt."""

from functools import partial

import numpy as np
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.utils import auto_docstring

from .configuration_mmgpt import AUTO_MAP
from .lengths_mmgpt import (
    audio_geometry,
    audio_token_count,
    image_geometry,
    image_token_count,
    shortest_sound,
    takes_fixed_window,
)
from .media_mmgpt import load_audio, load_image
from .prompts_mmgpt import DEFAULT_PROMPTS, check_prompts
from .saving_mmgpt import written_whole
from .templates_mmgpt import assistant_spans, flatten, mask_of, media_of


# ChatML. `generation` marks what the assistant says, the part that is trained. Content is a string or a list of parts.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message['content'] if message['content'] is not string else [{'type': 'text', 'text': message['content']}] %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {%- for part in content %}
                {{- part['text'] }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {%- for part in content %}
            {%- if part['type'] == 'image' %}
                {{- '<|image|>' }}
            {%- elif part['type'] == 'audio' %}
                {{- '<|audio|>' }}
            {%- else %}
                {{- part['text'] }}
            {%- endif %}
        {%- endfor %}
        {{- '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


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
        chat_template=None,
        image_token="<|image|>",
        audio_token="<|audio|>",
        image_geometry=None,
        audio_geometry=None,
        fixed_audio_window=False,
        prompts=None,
        **kwargs,
    ):
        r"""
        image_token (`str`, *optional*, defaults to `"<|image|>"`):
            Stands for an image in text; the processor repeats it once for each token of the image.
        audio_token (`str`, *optional*, defaults to `"<|audio|>"`):
            The same for a sound.
        image_geometry (`dict`, *optional*):
            `patch_size` and `merge_size` of the model: how many tokens an image becomes.
        audio_geometry (`dict`, *optional*):
            `convolutions` and `merge_size` of the model: how many tokens a sound becomes.
        fixed_audio_window (`bool`, *optional*, defaults to `False`):
            Whether the audio tower takes only spectrograms of the extractor's full length (Whisper's 30 seconds). The
            padding costs no tokens of the decoder.
        prompts (`dict`, *optional*):
            For each task of prompts_mmgpt.py how this model is asked to do it, in the words it was trained on. Tasks that
            are not named keep the default words.
        """
        self.image_token, self.audio_token = image_token, audio_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.image_geometry, self.audio_geometry = image_geometry or {}, audio_geometry or {}
        self.fixed_audio_window = fixed_audio_window
        check_prompts(prompts or {})
        self.prompts = {**DEFAULT_PROMPTS, **(prompts or {})}
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        parts = {"image_processor": image_processor, "tokenizer": tokenizer, "feature_extractor": feature_extractor}
        present = {name: part for name, part in parts.items() if part is not None}
        # The mixin requires whatever the signature names; a model without eyes or ears has no processor for them.
        self.get_attributes = partial(list, present)
        super().__init__(**present, chat_template=chat_template or tokenizer.chat_template or CHAT_TEMPLATE)

    @classmethod
    def from_config(cls, config, tokenizer, image_processor=None, feature_extractor=None, **kwargs):
        """A processor whose placeholder counts are those of a model built from `config`."""
        for tower, part, name in (
            (config.vision_config, image_processor, "image_processor"),
            (config.audio_config, feature_extractor, "feature_extractor"),
        ):
            if tower is not None and part is None:
                raise ValueError(f"The model has a {tower.model_type!r} tower: give the {name} that feeds it.")
        return cls(
            image_processor=image_processor,
            tokenizer=tokenizer,
            feature_extractor=feature_extractor,
            image_geometry=image_geometry(config),
            audio_geometry=audio_geometry(config),
            fixed_audio_window=takes_fixed_window(config.audio_config),
            **kwargs,
        )

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

        loaders = {
            "image_processor": AutoImageProcessor,
            "tokenizer": AutoTokenizer,
            "feature_extractor": AutoFeatureExtractor,
        }
        present = {"tokenizer", *(processor_dict or {})}
        return [
            loader.from_pretrained(pretrained_model_name_or_path, **kwargs) if name in present else None
            for name, loader in loaders.items()
        ]

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        if push_to_hub:
            return super().save_pretrained(save_directory, push_to_hub=True, **kwargs)
        with written_whole(save_directory) as folder:
            written = super().save_pretrained(folder, **kwargs)
        return [path.replace(str(folder), str(save_directory)) for path in written]

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if isinstance(text, str):
            text = [text]
        if images is not None:
            images = self.decode_images(images)
        if audio is not None:
            if not hasattr(self, "feature_extractor"):
                raise ValueError("Sounds were given but the model has no audio tower: leave them out.")
            audio = audio if isinstance(audio, (list, tuple)) else [audio]
            audio = [item for entry in audio for item in (entry if isinstance(entry, (list, tuple)) else [entry])]
            rate = self.feature_extractor.sampling_rate
            audio = [load_audio(item, rate, f"sound {index}") for index, item in enumerate(audio)]
        return images, None if text is None else list(text), videos, audio

    def decode_images(self, images):
        """Decoded images in the nesting they came in: one, a list, or a list for each sample."""
        if not hasattr(self, "image_processor"):
            raise ValueError("Images were given but the model has no vision tower: leave them out.")
        if not isinstance(images, (list, tuple)):
            return [load_image(images, "image 0")]
        return [
            [load_image(item, f"image {place} of sample {index}") for place, item in enumerate(entry)]
            if isinstance(entry, (list, tuple))
            else load_image(entry, f"image {index}")
            for index, entry in enumerate(images)
        ]

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        if text is not None:
            self.check_counts(text, images, self.image_token, "images")
            self.check_counts(text, audio, self.audio_token, "sounds")
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

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        height, width = image_inputs["pixel_values"][image_idx].shape[-2:]
        return self.image_token * image_token_count(height, width, **self.image_geometry)

    def replace_audio_token(self, audio_inputs: dict, audio_idx: int, **kwargs) -> str:
        frames = int(audio_inputs["input_features_mask"][audio_idx].sum())
        return self.audio_token * audio_token_count(frames, **self.audio_geometry)

    def _process_audio(self, audio, **kwargs):
        """Each sound goes through the extractor by itself, so that its spectrogram does not depend on its neighbours."""
        kwargs.update(padding="max_length" if self.fixed_audio_window else "longest", truncation=False)
        kwargs.update(
            return_attention_mask=True, return_tensors="np", sampling_rate=self.feature_extractor.sampling_rate
        )
        minimum = self.shortest_waveform
        spectrograms, lengths = [], []
        for index, waveform in enumerate(audio):
            if self.fixed_audio_window and len(waveform) > self.feature_extractor.n_samples:
                raise ValueError(
                    f"Sound {index} lasts {len(waveform) / self.feature_extractor.sampling_rate:.1f} s, but the model hears "
                    f"{self.feature_extractor.chunk_length} s at a time: cut it into pieces."
                )
            waveform = np.pad(waveform, (0, max(0, minimum - len(waveform))))
            features = self.feature_extractor(waveform, **kwargs)
            name = self.feature_extractor.model_input_names[0]
            spectrograms.append(features[name][0])  # (mel, frames), or (samples,)
            lengths.append(int(features["attention_mask"][0].sum()))
        longest = max(spectrogram.shape[-1] for spectrogram in spectrograms)
        padded = [np.pad(one, [(0, 0)] * (one.ndim - 1) + [(0, longest - one.shape[-1])]) for one in spectrograms]
        mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
        processed = {"input_features": np.stack(padded).astype(np.float32), "input_features_mask": mask}
        return processed, [self.replace_audio_token(processed, index) for index in range(len(audio))]

    @property
    def shortest_waveform(self) -> int:
        """Samples that a shorter sound is filled up to: enough for a spectrogram, and for one token."""
        extractor = self.feature_extractor
        n_fft, hop_length = (
            getattr(extractor, "n_fft", 1),
            getattr(extractor, "hop_length", 1),
        )  # none in raw waveforms
        return max(n_fft, hop_length * shortest_sound(self.audio_geometry["convolutions"]))

    def apply_chat_template(self, conversation, chat_template=None, **kwargs):
        """As in transformers, and with any decoder's own template: one that knows only text gets media as placeholders."""
        template = self.chat_template
        places_media = not isinstance(template, str) or self.image_token in template or self.audio_token in template
        if chat_template is not None or (places_media and LIBRARY_TAKES_MEDIA):
            return super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)
        return self.apply_text_template(conversation, template, **kwargs)

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
        placeholders = {"image": self.image_token, "image_url": self.image_token, "audio": self.audio_token}
        flat = [[flatten(message, placeholders) for message in messages] for messages in conversations]
        render = partial(super().apply_chat_template, chat_template=chat_template, **kwargs)
        texts = [render(messages) for messages in flat]
        if not tokenize:
            return texts if is_batched else texts[0]
        arguments = dict(processor_kwargs or {})
        if self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token):
            arguments.setdefault("add_special_tokens", False)  # the template wrote it
        images = [media_of(messages, "image") for messages in conversations]
        sounds = [sound for messages in conversations for sound in media_of(messages, "audio")]
        outputs = self(
            text=texts,
            images=images if any(images) else None,
            audio=sounds or None,
            return_tensors=return_tensors,
            **arguments,
        )
        if return_assistant_tokens_mask:
            masks = self.assistant_masks(flat, texts, render, outputs, arguments.get("add_special_tokens", True))
            outputs["assistant_masks"] = masks
            outputs.convert_to_tensors(return_tensors)
        return outputs if return_dict else outputs["input_ids"]

    def assistant_masks(self, conversations, texts, render, outputs, add_special_tokens: bool) -> list[list[int]]:
        """1 for tokens that the assistant says, for templates without the generation mark.

        Found in the text before its placeholders are repeated: all other tokens are the same, in the same order."""
        media_tokens = [self.image_token_id, self.audio_token_id]
        end_tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        masks = []
        for row, (messages, text) in enumerate(zip(conversations, texts, strict=True)):
            spans = assistant_spans(messages, text, render, end_tokens)
            plain = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=add_special_tokens)
            said = mask_of(spans, plain["offset_mapping"])[~np.isin(plain["input_ids"], media_tokens)]
            attended = np.asarray(outputs["attention_mask"][row]).astype(bool)
            is_word = attended & ~np.isin(np.asarray(outputs["input_ids"][row]), media_tokens)
            mask = np.zeros(len(is_word), dtype=np.int64)
            mask[is_word] = said
            masks.append(mask.tolist())
        return masks

    def _adjust_assistant_masks_indices(self, processed_dict, generation_indices):
        """transformers walks over every token here; over a tensor's elements that takes longer than a small model's step."""
        processed_dict["offset_mapping"] = np.asarray(processed_dict["offset_mapping"]).tolist()
        return super()._adjust_assistant_masks_indices(processed_dict, generation_indices)

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        """Sounds are decoded here, by soundfile, and may also come as base64; transformers' own road wants torchcodec."""
        decoded = []
        for index, conversation in enumerate(conversations):
            name = f"a sound of conversation {index}"
            decoded.append([self.decode_message(message, audio_loading_params, name) for message in conversation])
        return super()._multimodal_inputs_from_conversations(decoded, audio_loading_params, load_audio_from_video)

    @staticmethod
    def decode_message(message: dict, audio_loading_params: dict, name: str) -> dict:
        if not isinstance(message.get("content"), list):
            return message
        content = []
        for part in message["content"]:
            key = next((key for key in ("audio", "url", "path", "base64") if key in part), None)
            if part.get("type") == "audio" and key is not None:
                part = {"type": "audio", "audio": load_audio(part[key], audio_loading_params["sampling_rate"], name)}
            content.append(part)
        return {**message, "content": content}

    def _get_num_multimodal_tokens(self, image_sizes=None, audio_lengths=None, **kwargs) -> MultiModalData:
        """Tokens of media that are not there yet (serving engines plan with them).

        Args:
            image_sizes: `(height, width)` in pixels of each image.
            audio_lengths: number of samples of each sound, at the extractor's rate.
        """
        counts = {}
        if image_sizes is not None:
            size = getattr(self.image_processor, "crop_size", None) or self.image_processor.size
            tokens = image_token_count(size["height"], size["width"], **self.image_geometry)
            counts = {"num_image_tokens": [tokens] * len(image_sizes), "num_image_patches": [1] * len(image_sizes)}
        if audio_lengths is not None:
            hop = getattr(self.feature_extractor, "hop_length", 1)
            frames = [max(length, self.shortest_waveform) // hop for length in audio_lengths]
            counts["num_audio_tokens"] = [audio_token_count(count, **self.audio_geometry) for count in frames]
        return MultiModalData(**counts)

    @property
    def model_input_names(self) -> list[str]:
        names = super().model_input_names
        if not hasattr(self, "feature_extractor"):
            return names
        # Waveforms ("input_values" of wav2vec 2.0) go by the same name as spectrograms here.
        return ["input_features" if name == "input_values" else name for name in names] + ["input_features_mask"]


__all__ = ["MMGPTProcessor"]
