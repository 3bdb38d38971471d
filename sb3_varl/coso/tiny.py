"""A vision-language model made on the spot, small enough for a CPU, that has learnt nothing yet."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch as th
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sb3_varl.arguments import ArgumentError, check_integer

_PAD, _UNKNOWN, _END, _IMAGE = "<pad>", "<unk>", "<end>", "<image>"
_PIECE = r" ?[A-Za-z]+| ?\d| ?[^\w\s]|\s"
_PATCH = 8
# With the usual weights all pictures look alike at first, and learning to read takes ten times as long.
_PROJECTOR_STD, _PATCH_STD = 0.12, 0.3


@dataclass(frozen=True)
class TinyVLM:
    """
    A source of a model for ``VLMPolicy(model=...)``: a Llava of about 0.2 million weights, whose tokens are the words,
    digits and signs of some texts. It can do nothing before :func:`~sb3_varl.coso.imitate` has taught it.

    :param texts: Prompts and answers, with all words that will ever be used
    :param image_size: Pictures are scaled to so many pixels in both directions, a multiple of 8
    :param width: Width of its layers
    :param n_layers: Layers of its eyes and of its language
    :param max_length: Tokens of a prompt, its pictures and an answer at most
    :param seed: Seed of its first weights
    """

    texts: tuple[str, ...]
    image_size: int = 32
    width: int = 64
    n_layers: int = 2
    max_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or not all(isinstance(text, str) for text in self.texts):
            raise ArgumentError(f"texts is {self.texts!r:.300}, expected several texts.")
        for name in ("image_size", "width", "n_layers", "max_length"):
            check_integer(name, getattr(self, name))
        if self.image_size % _PATCH or self.width % 4:
            raise ArgumentError(
                f"image_size is {self.image_size} and width {self.width}, expected multiples of {_PATCH} and of 4."
            )

    @classmethod
    def knowing(cls, texts: Iterable[str], **kwargs: Any) -> "TinyVLM":
        """
        Make one that knows the words of some texts.

        :param texts: The texts
        :param kwargs: Other arguments of the class
        :return: The source of the model
        """
        return cls(tuple(dict.fromkeys(texts)), **kwargs)

    def __call__(self) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
        """
        Make the model.

        :return: The model and its processor
        """
        processor = self._processor()
        sizes = {
            "hidden_size": self.width,
            "intermediate_size": 2 * self.width,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": 4,
        }
        tokenizer = processor.tokenizer
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=self.image_size, patch_size=_PATCH, **sizes),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=self.max_length,
                num_key_value_heads=4,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                **sizes,
            ),
            image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
            image_seq_length=(self.image_size // _PATCH) ** 2,
            vision_feature_layer=-1,
        )
        with th.random.fork_rng(devices=[]):
            th.manual_seed(self.seed)
            model = LlavaForConditionalGeneration(config)
            for name, parameter in model.named_parameters():
                if "multi_modal_projector" in name and parameter.ndim == 2:
                    th.nn.init.normal_(parameter, std=_PROJECTOR_STD)
                elif "vision_tower" in name and "_embedding.weight" in name:
                    th.nn.init.normal_(parameter, std=_PATCH_STD)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        return model, processor

    def _processor(self) -> LlavaProcessor:
        pieces = pre_tokenizers.Split(Regex(_PIECE), "isolated")
        words = sorted({piece for text in self.texts for piece, _ in pieces.pre_tokenize_str(text)})
        known = [_PAD, _UNKNOWN, _END, _IMAGE, "\n", *(word for word in words if word != "\n")]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token=_UNKNOWN))
        tokenizer.pre_tokenizer = pieces
        tokenizer.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=_PAD,
            unk_token=_UNKNOWN,
            eos_token=_END,
            additional_special_tokens=[_IMAGE],
            clean_up_tokenization_spaces=False,
        )
        size = {"height": self.image_size, "width": self.image_size}
        eyes = CLIPImageProcessorPil(do_resize=True, size=size, do_center_crop=False)
        return LlavaProcessor(
            eyes, fast, patch_size=_PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
