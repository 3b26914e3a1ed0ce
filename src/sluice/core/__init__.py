"""The pure core: specs and source trees in; plans, trees and bytes out."""
