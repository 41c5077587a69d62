import torch


class AdamW(torch.optim.Optimizer):
  def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, correct_bias=True):
    super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, correct_bias=correct_bias))

  def step(self, closure=None):
    loss = closure() if closure is not None else None
    for g in self.param_groups:
      b1, b2 = g['betas']
      for p in (p for p in g['params'] if p.grad is not None):
        d, s = p.grad.data, self.state[p]
        if d.is_sparse: raise RuntimeError('no sparse gradients')
        t, m, v = s['s'] if s else (0, 0, 0)
        s['s'] = t, m, v = t + 1, b1 * m + (1 - b1) * d, b2 * v + (1 - b2) * d ** 2
        a = g['lr'] * ((1 - b2 ** t) ** .5 / (1 - b1 ** t) if g['correct_bias'] else 1)
        p.data = p.data - a * m / (v ** .5 + g['eps'])
        p.data = p.data - g['lr'] * g['weight_decay'] * p.data
    return loss
