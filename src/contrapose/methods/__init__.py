"""One short file a paper. The union and the names below are the registry; `method.py` says what a method is."""

from __future__ import annotations

from contrapose.methods.awm import AWM
from contrapose.methods.capo import CaPO
from contrapose.methods.chats import CHATS
from contrapose.methods.crd import CRD
from contrapose.methods.d3po import D3PO
from contrapose.methods.ddspo import DDSPO
from contrapose.methods.ddspo_data import DataDrivenDDSPO
from contrapose.methods.dgpo import DGPO
from contrapose.methods.diffusion_dpo import DiffusionDPO
from contrapose.methods.diffusion_dro import DiffusionDRO
from contrapose.methods.diffusion_kto import DiffusionKTO
from contrapose.methods.diffusion_lpo import DiffusionLPO
from contrapose.methods.dmpo import DMPO
from contrapose.methods.dspo import DSPO
from contrapose.methods.inpo import InPO
from contrapose.methods.mapo import MaPO
from contrapose.methods.nft import NFT
from contrapose.methods.online_dpo import OnlineDPO
from contrapose.methods.rank_dpo import RankDPO
from contrapose.methods.realalign import RealAlign
from contrapose.methods.self_npo import SelfNPO
from contrapose.methods.sft import SFT
from contrapose.methods.smpo import SmPO
from contrapose.methods.spo import SPO
from contrapose.methods.tailor_po import TailorPO
from contrapose.methods.tdpo import TDPO
from contrapose.methods.tkto import TKTO

Method = (
    DDSPO
    | DataDrivenDDSPO
    | DiffusionDPO
    | DiffusionDRO
    | RealAlign
    | SFT
    | CHATS
    | DiffusionKTO
    | DSPO
    | InPO
    | SmPO
    | SelfNPO
    | DMPO
    | MaPO
    | TDPO
    | TKTO
    | CaPO
    | DiffusionLPO
    | RankDPO
    | OnlineDPO
    | DGPO
    | NFT
    | AWM
    | CRD
    | SPO
    | TailorPO
    | D3PO
)

METHODS: dict[str, type[Method]] = {
    "ddspo": DDSPO,
    "ddspo-data": DataDrivenDDSPO,
    "diffusion-dpo": DiffusionDPO,
    "realalign": RealAlign,
    "diffusion-dro": DiffusionDRO,
    "sft": SFT,
    "chats": CHATS,
    "diffusion-kto": DiffusionKTO,
    "dspo": DSPO,
    "inpo": InPO,
    "smpo": SmPO,
    "self-npo": SelfNPO,
    "dmpo": DMPO,
    "mapo": MaPO,
    "tdpo": TDPO,
    "tkto": TKTO,
    "capo": CaPO,
    "diffusion-lpo": DiffusionLPO,
    "rankdpo": RankDPO,
    "online-dpo": OnlineDPO,
    "dgpo": DGPO,
    "nft": NFT,
    "awm": AWM,
    "crd": CRD,
    "spo": SPO,
    "tailorpo": TailorPO,
    "d3po": D3PO,
}


def name_of(method: Method) -> str:
    """The method's name in `METHODS`."""
    return next(name for name, cls in METHODS.items() if type(method) is cls)
