"""The image of a phantom study: a frontal chest drawn from its findings.

Coordinates: x and y run from -1 to 1, x from the image's left to its right, y from top to bottom. As in every frontal
image the patient faces the viewer, so the patient's RIGHT lies on the image's LEFT. Within one side of the chest, u is
the distance from the midline towards that side.

The drawing keeps `air`, how much aerated lung a ray passes (0 to 1), and `dense`, what adds to it (bone, metal).
Whatever fills the lung takes away air, so findings may overlap and still add up.
"""

from collections.abc import Collection

import numpy as np
from PIL import Image

from llava.radiology.findings import SEVERITIES, SIDES, Finding, sides_of

TOWARDS = {"right": -1, "left": 1}  # direction of x in which a side of the patient lies
SOFT_TISSUE = 0.66
AIR = 0.44
EDGE = 0.018  # half-width of a sharp edge
LUNG_TAPER = 4.5  # the larger, the blunter the apex

# By severity: height of fluid, width of the free air, radius, rise of the diaphragm, cardiothoracic ratio, haze.
FLUID_HEIGHT = (0.22, 0.42, 0.68)
FREE_AIR_WIDTH = (0.16, 0.27, 0.40)
CONSOLIDATION_RADIUS = (0.13, 0.18, 0.24)
ATELECTASIS_RISE = (0.05, 0.11, 0.17)
NODULE_RADIUS = (0.055, 0.07, 0.09)
HEART_RATIO = (0.60, 0.68, 0.76)
EDEMA_HAZE = (0.45, 0.6, 0.75)
NORMAL_HEART_RATIO = (0.40, 0.46)


def render_image(findings: Collection[Finding], rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Draws the chest image of `findings`, uint8 [size_px, size_px].

    The patient (build, exposure, noise) depends on `rng` alone, so two images from equal generators differ only by
    their findings.
    """
    drawings = [(name, side, draw) for name, draw in DRAW.items() for side in sides_of(name)]
    patient_rng, noise_rng, *lesion_rngs = rng.spawn(2 + len(drawings))
    severity = {(finding.name, finding.side): finding.severity for finding in findings}
    image = _Image(_Patient(patient_rng, severity.get(("cardiomegaly", ""))), size_px, noise_rng)
    for (name, side, draw), lesion_rng in zip(drawings, lesion_rngs, strict=True):
        if (name, side) in severity:
            draw(image, side, SEVERITIES[name].index(severity[name, side]), lesion_rng)
    return image.expose(noise_rng)


class _Patient:
    """Build of one patient, in image coordinates."""

    def __init__(self, rng: np.random.Generator, cardiomegaly: str | None):
        base = rng.uniform(0.38, 0.5)
        normal_ratio = rng.uniform(*NORMAL_HEART_RATIO)
        shift = normal_ratio - np.mean(NORMAL_HEART_RATIO)
        large = cardiomegaly and HEART_RATIO[SEVERITIES["cardiomegaly"].index(cardiomegaly)] + shift
        self.middle = rng.uniform(-0.05, 0.05)
        self.top = rng.uniform(-0.84, -0.74)
        self.lung_width = rng.uniform(0.62, 0.72)
        self.diaphragm = {"right": base - 0.03, "left": base + 0.03}
        self.heart_ratio = large or normal_ratio
        self.rib_spacing = rng.uniform(0.15, 0.19)
        self.rib_phase = rng.uniform(0, 2 * np.pi)
        self.rib_contrast = rng.uniform(0.05, 0.09)
        self.markings = rng.uniform(0.08, 0.14)
        self.exposure = rng.uniform(-0.05, 0.05)
        self.contrast = rng.uniform(0.9, 1.1)


class _Image:
    """The image while it is drawn: the maps `air` and `dense` [S, S], and where each lung still holds air."""

    def __init__(self, patient: _Patient, size_px: int, rng: np.random.Generator):
        axis = ((np.arange(size_px, dtype=np.float32) + 0.5) / size_px) * 2 - 1
        self.patient = patient
        self.x = axis[None, :] - np.float32(patient.middle)  # [1, S]
        self.y = axis[:, None]  # [S, 1]
        self.size_px = size_px
        self.far = np.abs(self.x)
        self.floor = dict(patient.diaphragm)  # lowest y of each lung that still holds air, at mid-lung
        self.wall = dict.fromkeys(SIDES, patient.lung_width)  # largest u of each lung, less where free air is around it
        self.lung = self._lung()
        self.air = self.lung * (1 - self._heart())
        self.dense = self._bones()
        self.markings = patient.markings * np.abs(self._clouds(rng, 48)) * np.exp(-self._from_hila() / 0.35)

    def u(self, side: str) -> np.ndarray:
        """Distance from the midline towards a side, [1, S]."""
        return self.x * TOWARDS[side]

    def dome(self, side: str) -> np.ndarray:
        """Height y of the diaphragm of a side, [1, S]."""
        return self.patient.diaphragm[side] + 2.2 * (self.u(side) - 0.32) ** 2

    def depth(self) -> np.ndarray:
        """How far below the apex of the lungs, from 0 there to 1 at their lowest point, [S, 1]."""
        return np.clip((self.y - self.patient.top) / (0.75 - self.patient.top), 0, 1)

    def chest_wall(self, lowered: float = 0.0) -> np.ndarray:
        """Distance of the inner chest wall from the midline, its apex lowered by a share of the lung, [S, 1]."""
        depth = np.clip(self.depth() - lowered, 0, 1)
        return self.patient.lung_width * np.sqrt(1 - (1 - depth) ** LUNG_TAPER)

    def fill(self, amount: np.ndarray) -> None:
        """Takes a share `amount` of the air away."""
        self.air *= 1 - amount
        self.markings = self.markings * (1 - amount)

    def expose(self, rng: np.random.Generator) -> np.ndarray:
        """The finished image, uint8 [S, S]."""
        patient = self.patient
        below = _step(self.y - np.where(self.x < 0, self.dome("right"), self.dome("left")), 0.06)
        shade = SOFT_TISSUE + 0.1 * below * _step(0.75 - self.far, 0.05) - AIR * self.air + self.air * self.markings
        shade = self._body() * (shade + self.dense)
        shade = 0.5 + (shade - 0.5) * patient.contrast + patient.exposure
        shade += 0.02 * rng.standard_normal(shade.shape, dtype=np.float32)
        return (255 * np.clip(shade, 0, 1)).astype(np.uint8)

    def _lung(self) -> np.ndarray:
        """Both lungs between mediastinum, chest wall and diaphragm, [S, S]."""
        medial = 0.12 + 0.16 * (1 - self.depth()) ** 8
        bottom = np.where(self.x < 0, self.dome("right"), self.dome("left"))
        return _step(self.chest_wall() - self.far, EDGE) * _step(self.far - medial, EDGE) * _step(bottom - self.y, EDGE)

    def _heart(self) -> np.ndarray:
        """Heart and aortic knob, [S, S]; the heart's widest diameter is `heart_ratio` of the chest's."""
        patient = self.patient
        radius = patient.heart_ratio * patient.lung_width
        centre_y = patient.diaphragm["left"] - 0.13
        tilted = self.x - 0.36 * radius - 0.3 * (self.y - centre_y)
        heart = _step(1 - np.hypot(tilted / radius, (self.y - centre_y) / (0.2 + 0.55 * radius)), 0.07)
        knob = _step(1 - np.hypot((self.x - 0.1) / 0.1, (self.y + 0.36) / 0.1), 0.15)
        return np.maximum(heart, knob)

    def _bones(self) -> np.ndarray:
        """Ribs, spine and clavicles, less the air of the trachea and the stomach, [S, S]."""
        patient = self.patient
        turn = 2 * np.pi / patient.rib_spacing
        cage = _step(patient.lung_width + 0.04 - self.far, EDGE) * _step(self.far - 0.08, 0.03)
        cage = cage * _step(self.y - patient.top + 0.02, 0.03) * _step(0.75 - self.y, 0.08)
        back = np.cos(turn * (self.y - 0.75 * self.far**2) + patient.rib_phase)
        front = np.cos(turn * (self.y + 0.55 * self.far) + 2 * patient.rib_phase)
        bones = patient.rib_contrast * cage * (_step(back - 0.1, 0.12) + 0.4 * _step(front - 0.3, 0.12))
        spine = np.exp(-((self.far / 0.085) ** 2)) * (0.1 + 0.03 * np.cos(2 * np.pi * self.y / 0.16))
        trachea = 0.14 * np.exp(-((self.far / 0.04) ** 2)) * _step(-0.3 - self.y, 0.04)
        rise = self.y - (patient.top + 0.2 - 0.1 * self.far - 0.04 * np.sin(7 * self.far))
        stomach = np.hypot((self.x - 0.34) / 0.17, (self.y - patient.diaphragm["left"] - 0.17) / 0.08)
        bubble = 0.14 * _step(1 - stomach, 0.2)
        clavicle = 0.11 * np.exp(-((rise / 0.032) ** 2)) * _step(self.far - 0.1, 0.02) * _step(0.8 - self.far, 0.02)
        return bones + spine + clavicle - trachea - bubble

    def _body(self) -> np.ndarray:
        """Neck, shoulders and trunk against the dark surround, [S, S]."""
        shoulder = -1.0 + 0.32 * np.clip(self.far - 0.22, 0, 1) + 1.1 * np.clip(self.far - 0.8, 0, 1)
        return _step(self.y - shoulder, 0.02) * (1 - 0.25 * self.far**2)

    def _from_hila(self) -> np.ndarray:
        """Distance to the nearer hilum, [S, S]."""
        return np.hypot(self.far - 0.18, self.y + 0.12)

    def _clouds(self, rng: np.random.Generator, cells: int) -> np.ndarray:
        """Smooth noise of variance about 1 with `cells` cells across, [S, S]."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.size_px, self.size_px), Image.Resampling.BICUBIC))


def _step(distance: np.ndarray, edge: float) -> np.ndarray:
    """A soft step: 1 where `distance` is positive, 0 where it is negative."""
    return 0.5 + 0.5 * np.tanh(distance * np.float32(1 / edge))


def _effusion(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """Fluid at the base: it buries the diaphragm and the costophrenic angle and climbs along the chest wall."""
    u = image.u(side)
    level = image.patient.diaphragm[side] + 0.12 - FLUID_HEIGHT[extent] * rng.uniform(0.9, 1.1)
    meniscus = level - 1.4 * np.clip(u - 0.25, 0, 1) ** 2
    image.fill(_step(u, EDGE) * _step(image.y - meniscus, EDGE))
    image.floor[side] = min(image.floor[side], level)


def _pneumothorax(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """Free air between chest wall and lung: a black rim without markings, inside it the white line of the pleura."""
    u, width = image.u(side), FREE_AIR_WIDTH[extent] * rng.uniform(0.9, 1.1)
    pleura = image.chest_wall(lowered=0.6 * width) - width
    image.dense += 0.22 * np.exp(-(((u - pleura) / 0.016) ** 2)) * image.air * (u > 0.1)
    free = _step(u - pleura, EDGE) * _step(u - 0.1, EDGE)
    image.markings = image.markings * (1 - free)
    image.air *= 1 + 0.45 * free
    image.wall[side] = image.patient.lung_width - width


def _consolidation(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """A cloudy patch."""
    radius = CONSOLIDATION_RADIUS[extent]
    distance = np.hypot(*_offset(image, side, rng)) + 0.04 * image._clouds(rng, 10)
    image.fill(0.85 * _step(radius - distance, 0.05))


def _atelectasis(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """Loss of volume at the base: a raised diaphragm with bands of collapsed lung above it."""
    u = image.u(side)
    rise = ATELECTASIS_RISE[extent]
    image.fill(_step(u, EDGE) * _step(image.y - image.dome(side) + rise, EDGE))
    for band in range(extent + 1):
        height = image.floor[side] - rise - 0.07 - 0.1 * band
        line = image.y - height - rng.uniform(-0.2, 0.2) * (u - 0.35)
        ends = _step(u - 0.12, 0.04) * _step(0.62 - 0.05 * band - u, 0.04)
        image.fill(0.9 * ends * np.exp(-((line / 0.028) ** 2)))


def _nodule(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """A round, sharply bounded, dense spot."""
    spot = _step(NODULE_RADIUS[extent] - np.hypot(*_offset(image, side, rng)), EDGE)
    image.fill(spot)
    image.dense += 0.16 * spot


def _edema(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """Haze around the hilum that fades towards the chest wall, with coarse markings."""
    haze = np.exp(-((image._from_hila() / 0.38) ** 2))
    image.fill(np.clip(haze * (EDEMA_HAZE[extent] + 0.12 * image._clouds(rng, 32)), 0, 1))


def _pacemaker(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """A metal box below the clavicle, its lead running through the vein to the heart."""
    toward, u, y = TOWARDS[side], 0.56 + rng.uniform(-0.04, 0.04), -0.5 + rng.uniform(-0.04, 0.04)
    box = np.maximum(np.abs(image.u(side) - u) / 0.12, np.abs(image.y - y) / 0.09)
    image.dense += 0.6 * _step(1 - box, 0.12)
    _wire(image, [(toward * u, y), (toward * 0.25, -0.58), (-0.1, -0.4), (-0.1, 0.05), (0.18, 0.3)])


def _line(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """A catheter from the arm to the superior vena cava, which lies right of the midline."""
    toward, y = TOWARDS[side], rng.uniform(-0.48, -0.38)
    _wire(image, [(toward * 1.0, y + 0.2), (toward * 0.75, y), (toward * 0.35, y - 0.1), (-0.1, -0.35), (-0.1, 0.0)])


def _tube(image: _Image, side: str, extent: int, rng: np.random.Generator) -> None:
    """A tube in the trachea."""
    tip = -0.32 + rng.uniform(-0.04, 0.04)
    image.dense += 0.4 * _step(0.03 - image.far, 0.012) * _step(tip - image.y, EDGE)


DRAW = {
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "edema": _edema,
    "consolidation": _consolidation,
    "atelectasis": _atelectasis,
    "nodule": _nodule,
    "pacemaker": _pacemaker,
    "line": _line,
    "tube": _tube,
}  # in the order of drawing: fluid and free air first, since they decide where the lung is


def _offset(image: _Image, side: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in u [1, S] and y [S, 1] from a random point of a lung.

    The point is the first of twelve that holds air and is not under heart or fluid, or the best of them.
    """
    us = 0.22 + rng.random(12) * max(image.wall[side] - 0.34, 0.05)
    ys = -0.5 + rng.random(12) * 0.8
    columns = np.abs(image.u(side)[0][:, None] - us).argmin(axis=0)
    rows = np.abs(image.y - ys).argmin(axis=0)
    best = np.minimum(image.air[rows, columns], 0.8).argmax()
    return image.u(side) - us[best], image.y - ys[best]


def _wire(image: _Image, points: list[tuple[float, float]]) -> None:
    """A bright wire along `points` of (x, y), its corners cut twice (Chaikin's smoothing)."""
    path = np.array(points)
    for _ in range(2):
        cut = [0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]]
        path = np.concatenate([path[:1], np.stack(cut, axis=1).reshape(-1, 2), path[-1:]])
    nearest = np.full((image.size_px, image.size_px), np.inf, dtype=np.float32)
    for (x0, y0), (x1, y1) in zip(path[:-1].tolist(), path[1:].tolist(), strict=True):
        length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = np.clip(((image.x - x0) * (x1 - x0) + (image.y - y0) * (y1 - y0)) / length2, 0, 1)
        np.minimum(nearest, np.hypot(image.x - x0 - along * (x1 - x0), image.y - y0 - along * (y1 - y0)), out=nearest)
    image.dense += 0.45 * _step(0.018 - nearest, 0.01)
