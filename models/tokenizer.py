"""Tokenizers: one trained on the catalogue's own words, or the one that came with a pretrained encoder."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from models.encoders import unreachable
from models.presets import TowerConfig
from retrieval.encoder import PAD_TOKEN
from retrieval.errors import InvalidInput, TowerError

SPECIAL_TOKENS = (PAD_TOKEN, "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer(config: TowerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of the configuration's text encoder.

    Args:
        config: a pretrained text encoder brings its own; for a fresh one it is trained.
        texts: cleaned texts to train on.

    Raises:
        TowerError: the pretrained encoder's tokenizer is out of reach.
        InvalidInput: there is no text to train on.
    """
    if not config.text.model:
        return train_wordpiece(texts, config.vocabulary)
    try:
        return AutoTokenizer.from_pretrained(config.text.model).backend_tokenizer
    except (OSError, ValueError) as error:
        raise TowerError(unreachable("tokenizer", config.text.model, error)) from error


def train_wordpiece(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer, [CLS] text [SEP], as BERT's (Devlin et al. 2019).

    Args:
        texts: cleaned texts.
        vocabulary: most pieces, > 0; a small catalogue yields fewer.

    Raises:
        InvalidInput: there is no text.
    """
    corpus = [text for text in texts if text]
    if not corpus:
        raise InvalidInput("there is no text to train a tokenizer on; give a catalogue with titles")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return tokenizer
