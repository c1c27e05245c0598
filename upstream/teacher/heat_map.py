"""A picture of phones against clusters: a good teacher shows a diagonal (as in wav2vec 2.0, appendix D)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upstream.picture import picture
from upstream.teacher.quality import Quality


def plot_heat_map(found: Quality, path: Path) -> None:
    """Write a PNG of P(phone | cluster): clusters by their commonest phone, phones by how common they are."""
    shares, phones, clusters = ordered_shares(found.table)
    with picture(path, 12, 2 + 0.18 * len(phones)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shares, aspect="auto", cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_yticks(range(len(phones)), [found.phones[p] for p in phones], fontsize=8)
        axes.set_xticks(range(len(clusters)) if len(clusters) <= 50 else [],
                        clusters.tolist() if len(clusters) <= 50 else [], fontsize=7)
        axes.set_xlabel(f"{len(clusters)} clusters, by their commonest phone")
        axes.set_ylabel("phone")
        axes.set_title(f"phone purity {found.phone_purity:.3f}, cluster purity {found.cluster_purity:.3f}, "
                       f"PNMI {found.pnmi:.3f}, {found.frames} frames", fontsize=10)
        figure.colorbar(image, ax=axes, label="P(phone | cluster)")


def ordered_shares(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(phone | cluster) of a (phones, clusters) table with rows and columns in the order of the picture.

    Returns:
        (phones, used clusters) float64; the rows of the table and the clusters that they are. Unused ones are left out.
    """
    phones = np.argsort(-table.sum(1), kind="stable")
    used = np.flatnonzero(table.sum(0))
    shares = table[phones][:, used] / table[:, used].sum(0)
    order = np.lexsort((-shares.max(0), shares.argmax(0)))
    return shares[:, order], phones, used[order]
