"""Our own nn.Modules: each file one model with a frozen config dataclass (and a SIZES table where sizes are named).

`KINDS` maps the `kind` written in a checkpoint's config.json to the class that reads it. Loading and saving is `io.py`.
"""

from autosing.registry import Registry

KINDS = Registry(
    "model kind",
    {
        "t2s": "autosing.models.t2s:T2S",
        "sm2a": "autosing.models.sm2a:SM2A",
        "sm2a_parallel": "autosing.models.sm2a_parallel:SM2AParallel",
        "recogniser": "autosing.models.recogniser:Recogniser",
        "separator": "autosing.models.separator:SeparatorNet",
        "pitch": "autosing.models.pitch:PitchNet",
        "voice": "autosing.models.voice:VoiceNet",
        "artist": "autosing.models.artist:ArtistNet",
        "g2p": "autosing.models.g2p:G2P",
        "whisperspeech_t2s": "autosing.models.whisperspeech:WhisperT2S",
        "whisperspeech_s2a": "autosing.models.whisperspeech:WhisperS2A",
        "whisper_vq": "autosing.models.whisper_vq:WhisperVq",
        "semantic": "autosing.models.semantic:SemanticCodebook",
    },
)
