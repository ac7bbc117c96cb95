"""PRMF that starts from the mean: the robust mode, second revision. See prmf.py for the published block.

Both branches keep their own prediction. Their logits are calibrated by a temperature each; the fusion is a weighted
mean of these logits, and the weight of the text is a gate per patch. At initialisation the gate is 1/2: the mean of
both. It is fitted on predictions for patients whom the branches have not seen (`wsikit.training.cross_fit`), and it
reads one number that means the same for branches of every fold: how surprising the caption is for this image. Axes: B
patches, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.models.prmf import PRMFOutput

_OPEN = 20.0
"""Of the gate's second factor: 1 to float precision."""
_RIDGE, _SHRINK = 1e-3, 0.1
"""Added to the diagonals, as a share of their mean: of the regression, and of the covariance of its residual."""
_LEAST = 1e-6


def centred(logits: Tensor) -> Tensor:
    """Logits (…, C) with mean 0 over the classes: the same probabilities.

    >>> centred(torch.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """
    return logits - logits.mean(dim=-1, keepdim=True)


class Surprise(nn.Module):
    """How surprising a caption is for an image: what it says is predicted from the image feature by ridge regression,
    and the surprise is the squared Mahalanobis distance of the residual per dimension.

    1 is usual for the training patches; another patch's caption has more. said (B, D), image (B, d_img): (B,).
    """

    weight: Tensor
    offset: Tensor
    whiten: Tensor

    def __init__(self, d_said: int, d_img: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(d_img, d_said))
        self.register_buffer("offset", torch.zeros(d_said))
        self.register_buffer("whiten", torch.eye(d_said))

    @torch.no_grad()
    def fit(self, said: Tensor, image: Tensor) -> None:
        """Fit to training patches, said (N, D) and image (N, d_img), in closed form."""
        x, y = image.double(), said.double()
        mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
        x, y = x - mean_x, y - mean_y
        weight = torch.linalg.solve(_regular(x.T @ x, _RIDGE), x.T @ y)
        rest = y - x @ weight
        whiten = torch.linalg.inv(torch.linalg.cholesky(_regular(rest.T @ rest / len(rest), _SHRINK))).T
        self.weight.copy_(weight)
        self.offset.copy_(mean_y - mean_x @ weight)
        self.whiten.copy_(whiten)

    def whitened(self, said: Tensor) -> Tensor:
        """What a caption says, (B, D), in units in which the distance is Euclidean."""
        return said @ self.whiten

    def expected(self, image: Tensor) -> Tensor:
        """What the image suggests that its caption says, (B, D), in the same units."""
        return (image @ self.weight + self.offset) @ self.whiten

    def forward(self, said: Tensor, image: Tensor) -> Tensor:
        found: Tensor = (self.whitened(said) - self.expected(image)).pow(2).mean(dim=1)
        return found


def _regular(matrix: Tensor, share: float) -> Tensor:
    """A symmetric matrix with a share of its mean diagonal added to the diagonal."""
    return matrix + (share * matrix.diagonal().mean() + _LEAST) * torch.eye(len(matrix), dtype=matrix.dtype)


class Gate(nn.Module):
    """The weight of the text, (B,) in (0, 1), from the surprise of its caption, (B,): w · σ(a − b · log surprise).

    w is the weight of a caption that fits its image; the second factor closes where it does not. At initialisation the
    weight is 1/2 for every patch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.usual = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self.slope = nn.Parameter(torch.zeros(()))
        self.fix(0.5)

    @torch.no_grad()
    def fix(self, weight: float) -> None:
        """Give every patch this weight: 0 the image alone, 1/2 the mean."""
        self.usual.fill_(torch.logit(torch.tensor(weight, dtype=torch.float64), eps=1e-30).item())
        self.offset.fill_(_OPEN)
        self.slope.zero_()

    def forward(self, surprise: Tensor) -> Tensor:
        fits = self.offset - self.slope * surprise.clamp(min=_LEAST).log()
        weight: Tensor = torch.sigmoid(self.usual) * torch.sigmoid(fits)
        return weight


class CalibratedPRMF(nn.Module):
    """PRMF, mode "robust", revision 2: logits = z_v + g·(z_t − z_v), g = m·rho·c.

    z_v and z_t are the centred logits of the branches, each divided by its temperature; c is `Gate`. Without a text
    (m = 0) the result is that of the image to the bit.

    Parameters
    ----------
    d_text, d_img : int
        Widths of the input features.
    d : int
        Width of the image branch's projection.
    n_classes : int
        Width of the heads.
    d_said : int
        How many of the last text features are the facts that the caption states, as ranks: only these are compared with
        the image, and the head does not read them. 0: all features are.
    """

    temperature_image: Tensor
    temperature_text: Tensor

    def __init__(self, d_text: int, d_img: int, d: int, *, n_classes: int, d_said: int = 0) -> None:
        super().__init__()
        self.mode = "robust"
        self.project_image = nn.Sequential(nn.Linear(d_img, d), nn.LayerNorm(d))
        self.head_image = nn.Linear(d, n_classes)
        self.d_said, self.d_read = d_said, d_text - d_said
        self.head_text = nn.Sequential(
            nn.Linear(self.d_read, self.d_read), nn.GELU(), nn.Linear(self.d_read, n_classes)
        )
        self.surprise = Surprise(d_said or d_text, d_img)
        self.gate = Gate()
        self.register_buffer("temperature_image", torch.ones(()))
        self.register_buffer("temperature_text", torch.ones(()))

    def image_logits(self, image: Tensor) -> Tensor:
        """Calibrated logits of the image branch, (B, C), from its features (B, d_img)."""
        return centred(self.head_image(self.project_image(image))) / self.temperature_image

    def text_logits(self, text: Tensor) -> Tensor:
        """Calibrated logits of the text branch, (B, C), from its features (B, d_text)."""
        return centred(self.head_text(text[:, : self.d_read])) / self.temperature_text

    def said(self, text: Tensor) -> Tensor:
        """The part of the text features (B, d_text) that is compared with the image."""
        return text[:, self.d_read :] if self.d_said else text

    def forward(self, text: Tensor, image: Tensor, *, present: Tensor | None = None, rho: float = 1.0) -> PRMFOutput:
        """Fuse a batch; as `wsikit.models.prmf.PRMF.forward`."""
        if present is None:
            present = torch.ones(len(image), dtype=torch.bool, device=image.device)
        text = torch.where(present.unsqueeze(1), text, torch.zeros_like(text))
        z_v, z_t = self.image_logits(image), self.text_logits(text)
        c = self.gate(self.surprise(self.said(text), image))
        g = torch.where(present, rho * c, torch.zeros_like(c))
        fused = z_v + g.unsqueeze(1) * (z_t - z_v)
        return PRMFOutput(logits=fused, logits_img=z_v, logits_txt=z_t, gate=g, reliability=c.unsqueeze(1))
