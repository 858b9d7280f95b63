"""Tokenizers: one trained on the catalogue's own words, or the one that came with a pretrained encoder."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from models.towers.config import TowerConfig
from models.towers.model_files import find_published, unreachable
from retrieval.encoders.query_encoder import PAD_TOKEN
from retrieval.errors import InvalidInput, TowerError

SPECIAL_TOKENS = (PAD_TOKEN, "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 40  # characters; longer words are serial numbers or addresses
COMMON_ENDING = 12  # minimum number of words that share an ending for it to become a piece


def make_tokenizer(config: TowerConfig, texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer of the configuration's text encoder.

    Args:
        config: configuration; a pretrained text encoder's tokenizer is loaded, a fresh text encoder's tokenizer is trained.
        texts: cleaned texts to train on.

    Raises:
        TowerError: the pretrained encoder's tokenizer is not available.
        InvalidInput: there is no text to train on.
    """
    if not config.text.model:
        return train_wordpiece(texts, config.vocabulary)
    try:
        tokenizer = _published_tokenizer(find_published(config.text.model, "tokenizer"))
    except (OSError, ValueError) as error:
        raise TowerError(unreachable("tokenizer", config.text.model, error)) from error
    tokenizer.no_truncation()  # published files set the lengths of their own training, which are not ours
    tokenizer.no_padding()
    return tokenizer


def _published_tokenizer(model: str) -> Tokenizer:
    """Return the tokenizer of a published encoder in the form that serves without transformers."""
    published = AutoTokenizer.from_pretrained(model)
    backend = getattr(published, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        return backend
    file = cached_file(model, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if file is None:
        raise TowerError(
            f"{model!r} has no tokenizer.json, without which its texts cannot be encoded in serving; save the tokenizer as one, or "
            "take another encoder"
        )
    return Tokenizer.from_file(file)


def train_wordpiece(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Build a lower-casing WordPiece tokenizer like BERT's (Devlin et al. 2019): [CLS] text [SEP].

    Its pieces are all characters, common endings and the most frequent words, so that a frequent word is one piece. The trainer
    of the tokenizers library is not used, because it breaks ties differently from run to run.

    Args:
        texts: cleaned texts.
        vocabulary: largest number of pieces, > 0. A small catalogue yields fewer; all characters are taken even if they exceed it.

    Raises:
        InvalidInput: there is no text.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    words = Counter(
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        if len(word) <= LONGEST_WORD
    )
    if not words:
        raise InvalidInput("there is no text to train a tokenizer on; give a catalogue with titles")
    pieces = dict.fromkeys([*SPECIAL_TOKENS, *_characters(words)])
    for piece in [*_endings(words), *sorted(words, key=lambda word: (-words[word], word))]:
        if len(pieces) >= vocabulary:
            break
        pieces[piece] = None
    tokenizer.model = models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _characters(words: Iterable[str]) -> list[str]:
    letters = sorted({letter for word in words for letter in word})
    return [*letters, *(f"##{letter}" for letter in letters)]


def _endings(words: Iterable[str]) -> list[str]:
    """Return endings of two to four letters that many words share, the most common first."""
    shared = Counter(word[-length:] for word in words for length in (2, 3, 4) if len(word) > length + 1)
    common = [ending for ending, count in shared.items() if count >= COMMON_ENDING]
    return [f"##{ending}" for ending in sorted(common, key=lambda ending: (-shared[ending], ending))]
